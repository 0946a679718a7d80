#!/usr/bin/env python3
"""Writes scores.json: what the reference tools make of a few invented pairs, for the metrics and options that have no
numbers in ../../golden.

    python3 make.py            writes the file
    python3 make.py --check    makes the numbers again and compares with the file

Needs sacrebleu 2.6.0, nltk 3.9.1 and rouge-score 0.1.2; no data of theirs. Synonyms are switched off in METEOR, and its
words are cut without sentences, since both would need data.
"""

import json
import sys
from pathlib import Path

from nltk.tokenize import word_tokenize
from nltk.translate.meteor_score import single_meteor_score
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU, CHRF, TER

FILE = Path(__file__).resolve().parent / "scores.json"

PAIRS = [
    ("The mill by the old canal grinds rye on Fridays.", ["The mill by the old canal grinds rye on Fridays."]),
    ("On Fridays the mill by the old canal grinds rye.", ["The mill by the old canal grinds rye on Fridays."]),
    ("Rye is ground at a mill.", ["The old mill grinds rye.", "At the mill they grind rye on Fridays, as ever."]),
    ("", ["A reference that nobody answered."]),
    ("An answer that nobody asked for", [""]),
    ("", [""]),
    (" \t ", ["  "]),
    ("yes", ["Yes"]),
    ("ab", ["abc"]),
    ("a b c d e f g h i j k l", ["g h i j k l a b c d e f"]),
    ("a b c a b c a b c", ["c b a c b a c b a", "a c b a c b"]),
    ("four five six one two three seven", ["one two three four five six seven"]),
    ("one two three four five six seven eight nine ten eleven twelve thirteen", ["thirteen twelve eleven ten nine"]),
    ("Ole's boat, the \"Tern\", isn't Mia's (yet).", ["Ole's boat 'Tern' is not Mia's - yet."]),
    ("It cost $1,250.50 in 1998-99 & more!!", ["In 1998-99, it cost &quot;1,250.5&quot; dollars &amp; more."]),
    ("(well) well, (well), well...", ["well (well) well well", "Well, well, well ..."]),
    ("Ihre Straße ist größer als die ÜBRIGEN.", ["Ihre STRASSE ist größer als die übrigen."]),
    ("Όλοι οι δρόμοι ΟΔΟΣ", ["Όλοι οι δρόμοι οδος"]),
    ("река течёт медленно", ["Медленно течёт река, как всегда."]),
    ("東京は大きい、とても。", ["東京は とても大きい。", "とても大きい東京"]),
    ("我喜欢读书！（真的）", ["我很喜欢读书。真的！"]),
    ("party 🎉🎉 tonight 👩‍👩‍👧", ["party tonight 🎉 👩‍👧"]),
    ("cafe\u0301 or caf\u00e9", ["caf\u00e9 or cafe\u0301"]),
    ("tabs\tand\u00a0spaces\u3000of \u2009all kinds", ["tabs and spaces of all kinds"]),
    ("first line\nsecond line\n-cut", ["second line\nfirst line cut", "first-\nsecond"]),
    ("the the the the the the the", ["the cat sat on the mat"]),
    (" ".join(f"w{i}" for i in range(60)), [" ".join(f"w{(i * 7) % 60}" for i in range(60))]),
    (" ".join(f"w{i % 5}" for i in range(40)), [" ".join(f"w{(i * 3 + 1) % 5}" for i in range(45))]),
    ("x", [" ".join(f"v{i}" for i in range(70)) + " x"]),
]

METRICS = {
    "bleu exp": BLEU(effective_order=True),
    "bleu floor": BLEU(effective_order=True, smooth_method="floor"),
    "bleu add-k": BLEU(effective_order=True, smooth_method="add-k", smooth_value=2),
    "bleu none": BLEU(effective_order=True, smooth_method="none", tokenize="none"),
    "bleu order 2": BLEU(effective_order=True, max_ngram_order=2),
    "chrf": CHRF(),
    "chrf++": CHRF(word_order=2),
    "chrf lowercase": CHRF(lowercase=True, beta=3, char_order=4),
    "chrf eps": CHRF(word_order=1, eps_smoothing=True, whitespace=True),
    "ter": TER(),
    "ter case": TER(case_sensitive=True),
    "ter normalized": TER(normalized=True),
    "ter asian": TER(normalized=True, asian_support=True),
    "ter no punctuation": TER(no_punct=True, normalized=True, asian_support=True),
}


class NoSynonyms:
    def synsets(self, word):
        return []


def scores():
    predictions = [prediction for prediction, _ in PAIRS]
    most = max(len(references) for _, references in PAIRS)
    # A list for every place of a reference; None where a pair has no more.
    streams = [[refs[i] if i < len(refs) else None for _, refs in PAIRS] for i in range(most)]
    found = {"pairs": [{"prediction": p, "references": r} for p, r in PAIRS], "metrics": {}}
    for name, metric in METRICS.items():
        corpus = metric.corpus_score(predictions, streams)
        items = [metric.sentence_score(prediction, references).score for prediction, references in PAIRS]
        signature = metric.get_signature()
        # The last sentence left its number of references behind.
        signature.info["nrefs"] = "var"
        found["metrics"][name] = {"corpus": corpus.score, "signature": str(signature), "items": items}
    words = lambda text: word_tokenize(text, preserve_line=True)
    meteor = [
        max(single_meteor_score(words(r), words(p), wordnet=NoSynonyms()) for r in references) for p, references in PAIRS
    ]
    found["metrics"]["meteor"] = {"corpus": sum(meteor) / len(meteor), "items": meteor}
    kinds = ["rouge1", "rouge2", "rougeL", "rougeLsum"]
    for stemmer in [False, True]:
        scorer = RougeScorer(kinds, use_stemmer=stemmer)
        best = [scorer.score_multi(references, prediction) for prediction, references in PAIRS]
        for kind in kinds:
            items = [float(score[kind].fmeasure) for score in best]
            name = f"{kind} stemmer" if stemmer else kind
            found["metrics"][name] = {"corpus": sum(items) / len(items), "items": items}
    return found


def main():
    text = json.dumps(scores(), ensure_ascii=False, indent=None, separators=(",", ":")).replace('},"', '},\n"') + "\n"
    if sys.argv[1:] == ["--check"]:
        same = FILE.read_text(encoding="utf-8") == text
        print("the same" if same else "scores.json differs")
        sys.exit(not same)
    FILE.write_text(text, encoding="utf-8")
    print(f"{len(PAIRS)} pairs, {len(text.encode())} bytes")


if __name__ == "__main__":
    main()
