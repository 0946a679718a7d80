//! Talks between two people that come to something: the turns, and what they come to in one sentence. The dialogue task
//! writes them as turns with names in front and asks for the sentence; the text tells the same kind of talk as prose
//! with quotation marks. Talks that come to nothing in particular are in `prose/talk.rs`.

use super::rng::Rng;
use super::template::Scene;

/// One turn: the speaker's template and the choices of what is said.
type Turn = (&'static str, &'static [&'static str]);

/// A talk and what it comes to.
pub(super) struct Plot {
    turns: &'static [Turn],
    outcome: &'static str,
}

const P: &str = "{p.1}";
const Q: &str = "{q.1}";
const S: &str = "{s.keeper1}";
const V: &str = "{v.captain1}";

/// What may be said before the matter itself.
const GREETINGS: [&[Turn]; 4] = [
    &[],
    &[(P, &["Good morning, {q.1}.", "Hello, {q.1}."])],
    &[(P, &["How are you, {q.1}?"]), (Q, &["I am well, thank you.", "Not bad, but I have too much work."])],
    &[
        (Q, &["{^p.1}! I have not seen you for {n} days.", "You look tired, {p.1}."]),
        (P, &["I know.", "I was at {place2}."]),
    ],
];

const ASK_TO_MEET: Turn = (
    P,
    &["Shall we meet at {place} on {day}?", "Can you come to {place} on {day}?", "Let us meet at {place} on {day}."],
);
const ASK_TO_LEND: Turn =
    (P, &["May I borrow your {thing}?", "Could you lend me your {thing}?", "I need {a:thing}. Do you have one?"]);
const ASK_FOR_GOODS: Turn =
    (P, &["I need {n} {i.many}.", "Do you have {n} {i.many} for me?", "{^n} {i.many}, please."]);
const HAVE_LOST: Turn = (P, &["I have lost my {thing}.", "Has anyone seen my {thing}?", "I cannot find my {thing}."]);
const AM_SICK: Turn = (P, &["I am sick and cannot work.", "I have a cold.", "My head hurts, and I must stay in bed."]);
const BIRTHDAY: Turn =
    (P, &["{r.1} has a birthday on {day}.", "On {day} it is {r.1}'s birthday. What shall we give {r.him}?"]);
const ANY_NEWS: Turn = (P, &["Have you heard about {v}?", "Is there any news of {v}?"]);
const HIRE: Turn = (
    V,
    &[
        "I need one more sailor for {v}. The pay is {m} coins a week.",
        "Will you sail with me on {v} for {m} coins a week?",
    ],
);

pub(super) const PLOTS: [Plot; 22] = [
    Plot {
        turns: &[
            ASK_TO_MEET,
            (Q, &["Yes, I would like that.", "That would be fine."]),
            (P, &["Good. Until then!", "Do not be late."]),
        ],
        outcome: "{p.1} and {q.1} will meet at {place} on {day}.",
    },
    Plot {
        turns: &[
            ASK_TO_MEET,
            (Q, &["On {day} I must work, but {day2} would be fine.", "Not on {day}. Is {day2} good for you?"]),
            (P, &["Then on {day2}.", "Yes, {day2} is fine."]),
        ],
        outcome: "{p.1} and {q.1} will meet at {place} on {day2}.",
    },
    Plot {
        turns: &[
            ASK_TO_MEET,
            (Q, &["Yes, but not at {place}. Come to {place2}.", "I would love to, but {place2} is better."]),
            (P, &["Good, then at {place2}.", "I will be there."]),
        ],
        outcome: "{p.1} and {q.1} will meet at {place2} on {day}.",
    },
    Plot {
        turns: &[
            ASK_TO_MEET,
            (Q, &["I am sorry, I cannot. I promised to help {r.1}.", "No, on {day} I must help {r.1}."]),
            (P, &["What a pity.", "Never mind."]),
        ],
        outcome: "{q.1} cannot meet {p.1} on {day} because {q.he} must help {r.1}.",
    },
    Plot {
        turns: &[
            ASK_TO_LEND,
            (Q, &["Of course. It is behind the door.", "Yes, take it."]),
            (P, &["I will bring it back on {day}.", "You will have it again on {day}."]),
        ],
        outcome: "{q.1} lends {p.1} {a:thing} until {day}.",
    },
    Plot {
        turns: &[
            ASK_TO_LEND,
            (Q, &["It is broken. Ask {r.1}.", "Mine is broken, but {r.1} has one."]),
            (P, &["Thank you, I will ask {r.him}.", "Then I will go to {r.1}."]),
        ],
        outcome: "{p.1} will ask {r.1} for {a:thing} because the one of {q.1} is broken.",
    },
    Plot {
        turns: &[
            ASK_TO_LEND,
            (Q, &["I need it myself until {day}.", "You can have it on {day}, not before."]),
            (P, &["I can wait.", "On {day}, then."]),
        ],
        outcome: "{p.1} can borrow the {thing} of {q.1} on {day}.",
    },
    Plot {
        turns: &[
            ASK_FOR_GOODS,
            (S, &["That makes {cost}.", "Here they are. {cost}, please."]),
            (P, &["Here are the coins.", "I will take them."]),
        ],
        outcome: "{p.1} buys {n} {i.many} from {s.keeper1} for {cost}.",
    },
    Plot {
        turns: &[
            ASK_FOR_GOODS,
            (S, &["I have no {i} left. Come back on {day}.", "There will be more {i} on {day}."]),
            (P, &["Then I will come back.", "Good, on {day}."]),
        ],
        outcome: "{p.1} will come back to {s.keeper1} for {i} on {day}.",
    },
    Plot {
        turns: &[
            ASK_FOR_GOODS,
            (S, &["That makes {cost}.", "They cost {cost}."]),
            (P, &["That is too much for me.", "That is more than I have."]),
        ],
        outcome: "{p.1} does not buy the {i} because {cost} are too much.",
    },
    Plot {
        turns: &[
            HAVE_LOST,
            (Q, &["I found it at {place}.", "It was at {place}, and I have it here."]),
            (P, &["What luck!", "Thank you so much!"]),
        ],
        outcome: "{q.1} found the {thing} of {p.1} at {place}.",
    },
    Plot {
        turns: &[
            HAVE_LOST,
            (Q, &["Was it {colour}? Then {r.1} has it.", "I gave it to {r.1} on {day}."]),
            (P, &["I will go and ask {r.him}.", "Then I will go to {r.1}."]),
        ],
        outcome: "{r.1} has the {thing} that {p.1} lost.",
    },
    Plot {
        turns: &[
            HAVE_LOST,
            (Q, &["When did you have it last?", "Where were you with it?"]),
            (P, &["On {day}, at {place}.", "I was at {place} on {day}."]),
            (Q, &["Then go and look there.", "Then it is there still."]),
        ],
        outcome: "{p.1} will look for the {thing} at {place}.",
    },
    Plot {
        turns: &[
            AM_SICK,
            (Q, &["I will go to {place} for you.", "Then I will do your work at {place}."]),
            (P, &["You are very kind.", "What would I do without you?"]),
        ],
        outcome: "{q.1} will go to {place} for {p.1}, who is sick.",
    },
    Plot {
        turns: &[
            AM_SICK,
            (Q, &["Stay in bed. I will bring you {p.likes}.", "You need {p.likes}. I will bring you some."]),
            (P, &["Thank you, {q.1}.", "You are a good friend."]),
        ],
        outcome: "{q.1} will bring {p.likes} to {p.1}, who is sick.",
    },
    Plot {
        turns: &[
            BIRTHDAY,
            (Q, &["Let us give {r.him} {i.one}.", "I think {r.he} would like {i.one}."]),
            (P, &["That is a good idea.", "Yes, let us do that."]),
        ],
        outcome: "{p.1} and {q.1} will give {r.1} {i.one} on {day}.",
    },
    Plot {
        turns: &[
            BIRTHDAY,
            (Q, &["We could give {r.him} {i.one}.", "{^i.one}, perhaps?"]),
            (P, &["No, {r.he} has one. Let us give {r.him} {a:thing}.", "I would rather give {r.him} {a:thing}."]),
            (Q, &["Yes, you are right.", "Good."]),
        ],
        outcome: "{p.1} and {q.1} will give {r.1} {a:thing} on {day}.",
    },
    Plot {
        turns: &[
            ANY_NEWS,
            (Q, &["It sails on {day} {time}.", "It will leave on {day} {time}."]),
            (P, &["I want to be there.", "Then I must hurry."]),
        ],
        outcome: "{v} will sail on {day} {time}.",
    },
    Plot {
        turns: &[
            ANY_NEWS,
            (Q, &["It lost a sail in the storm.", "There was a storm, and a sail tore."]),
            (P, &["Is {v.captain1} safe?", "I hope that nobody was hurt."]),
            (Q, &["Everyone is safe.", "Yes, nobody was hurt."]),
        ],
        outcome: "{v} lost a sail in a storm, but everyone is safe.",
    },
    Plot {
        turns: &[
            ANY_NEWS,
            (Q, &["It came in this morning with {v.cargo}.", "It is back, full of {v.cargo}."]),
            (P, &["That is good news.", "At last!"]),
        ],
        outcome: "{v} has come back with {v.cargo}.",
    },
    Plot {
        turns: &[
            HIRE,
            (P, &["Yes, captain.", "I will be on the quay."]),
            (V, &["We sail on {day}.", "Good. Come on {day}."]),
        ],
        outcome: "{p.1} will sail on {v} for {m} coins a week.",
    },
    Plot {
        turns: &[
            HIRE,
            (P, &["No, captain. I would miss {t}.", "I am sorry, but I will stay in {t}."]),
            (V, &["What a pity.", "Then I will ask {q.1}."]),
        ],
        outcome: "{p.1} will not sail on {v} and stays in {t}.",
    },
];

impl Plot {
    /// The turns of one telling, as (speaker, words), a greeting first where both speakers are common people. Who speaks
    /// on has one turn, not two.
    pub(super) fn play(&self, scene: &Scene, rng: &mut Rng) -> Vec<(String, String)> {
        let between_friends = self.turns.iter().all(|turn| turn.0 == P || turn.0 == Q);
        let greeting: &[Turn] = if between_friends { rng.pick(&GREETINGS) } else { &[] };
        let mut played: Vec<(String, String)> = Vec::new();
        for (speaker, choices) in greeting.iter().chain(self.turns) {
            let speaker = scene.clause(speaker, rng);
            let mut words = String::new();
            scene.write(rng.pick(choices), rng, &mut words);
            match played.last_mut() {
                Some(last) if last.0 == speaker => last.1 = format!("{} {words}", last.1),
                _ => played.push((speaker, words)),
            }
        }
        played
    }

    /// What the talk comes to, in one sentence.
    pub(super) fn outcome(&self, scene: &Scene, rng: &mut Rng) -> String {
        let mut out = String::new();
        scene.write(self.outcome, rng, &mut out);
        out
    }
}

/// A talk told with quotation marks, and its outcome half of the time.
pub(super) fn as_prose(scene: &mut Scene, rng: &mut Rng, out: &mut String) {
    let plot = rng.one_of(&PLOTS);
    for (at, (speaker, words)) in plot.play(scene, rng).into_iter().enumerate() {
        if at > 0 {
            out.push(' ');
        }
        let (words, verb) = match words.strip_suffix('.') {
            Some(stem) => (format!("{stem},"), "said"),
            None if words.ends_with('?') => (words, "asked"),
            None => (words, "cried"),
        };
        out.push_str(&format!("\"{words}\" {verb} {speaker}."));
    }
    if rng.percent(60) {
        out.push(' ');
        // After an opening the sentence goes on without a capital; names bring their own.
        match rng.pick(&["", "So ", "The end of it was this: "]) {
            "" => out.push_str(&plot.outcome(scene, rng)),
            open => {
                out.push_str(open);
                out.push_str(&scene.clause(plot.outcome, rng));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::entities::World;
    use super::super::template::check;
    use super::*;

    #[test]
    fn every_plot_plays() {
        let world = World::new(2);
        let mut rng = Rng::new(2, "test", 0);
        for plot in &PLOTS {
            plot.turns.iter().flat_map(|turn| turn.1).for_each(|t| check(t));
            let scene = Scene::anywhere(&world, &mut rng);
            let turns = plot.play(&scene, &mut rng);
            assert!(turns.len() >= 3);
            assert!(turns.iter().all(|(speaker, words)| speaker.len() > 1 && words.ends_with(['.', '?', '!'])));
            assert!(plot.outcome(&scene, &mut rng).ends_with('.'));
        }
    }
}
