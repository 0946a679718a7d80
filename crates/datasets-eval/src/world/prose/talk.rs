//! People talking, told in prose with quotation marks. The dialogue task has a form of its own (`dialogue.rs`).

use super::stories::Beat;

pub(super) const TALKS: [&[Beat]; 11] = [
    // Meeting.
    &[
        &[
            "{p} met {q} at {place}.",
            "at {place} {p} saw {q} and waved.",
            "{q} was sitting at {place} when {p} came along.",
        ],
        &[
            "\"Good morning,\" said {p.1}. \"How are you?\"",
            "\"Hello, {q.1},\" said {p.1}. \"I have not seen you for {n} days.\"",
            "\"There you are,\" said {p.1}.",
        ],
        &[
            "\"I am well, thank you,\" {q.1} answered. \"And you?\"",
            "\"Not bad,\" said {q.1}, \"but I have too much work.\"",
            "\"I am tired,\" {q.1} said. \"The baby next door cried all night.\"",
        ],
        &[
            "\"Shall we meet on {day} {time}?\" {p.1} asked.",
            "\"Can you come to {place2} on {day}?\" asked {p.1}.",
            "\"Let us have {p.likes} together on {day},\" said {p.1}.",
        ],
        &[
            "\"On {day} I must work,\" said {q.1}, \"but {day2} would be fine.\"",
            "\"Yes, I would like that,\" said {q.1}.",
            "\"I am sorry, I cannot,\" said {q.1}. \"I promised to help {r}.\"",
        ],
        &[
            "\"Good. Until then!\" said {p.1}.",
            "they shook hands and went their ways.",
            "\"Do not be late,\" {p.1} said and laughed.",
        ],
    ],
    // Buying.
    &[
        &["{p} opened the door of {s}.", "on {day} {p} went to {s}.", "the bell rang, and {p} came into {s}."],
        &[
            "\"What can I do for you?\" asked {s.keeper}.",
            "\"Good day,\" said {s.keeper1}. \"What would you like?\"",
            "\"Can I help you?\" said {s.keeper}.",
        ],
        &[
            "\"I need {n} {i.many},\" said {p.1}.",
            "\"{^i.one}, please,\" said {p.1}.",
            "\"Do you have any {i} left?\" {p.1} asked.",
        ],
        &[
            "\"{^i.one} is {i.price} today,\" said {s.keeper1}.",
            "\"{^n} {i.many} make {cost},\" {s.keeper1} counted.",
            "\"There will be more {i} on {day2},\" said {s.keeper1}.",
        ],
        &[
            "{p.1} put the coins on the counter.",
            "\"That is more than I have,\" said {p.1}. \"I will come back on {day2}.\"",
            "\"Then I will take it,\" said {p.1}.",
        ],
        &["\"Thank you, and good day!\" said {s.keeper1}.", "{s.keeper1} put everything in a paper bag."],
    ],
    // Borrowing.
    &[
        &["{p} needed {a:thing}.", "{p} knocked at {q.1}'s door.", "\"Could you help me?\" {p} asked {q}."],
        &[
            "\"May I borrow your {thing}?\" {p.he} asked.",
            "\"Could you lend me your {thing} until {day}?\" asked {p.1}.",
        ],
        &[
            "\"Of course,\" said {q.1}. \"It is behind the door.\"",
            "\"It is broken,\" {q.1} said. \"Ask {r}.\"",
            "\"I need it myself,\" said {q.1}, \"but you can have it on {day}.\"",
        ],
        &[
            "\"You are very kind,\" said {p.1}.",
            "\"I will bring it back on {day2},\" {p.1} promised.",
            "\"Never mind,\" said {p.1}. \"I will find another way.\"",
        ],
    ],
    // News of a ship.
    &[
        &[
            "\"Have you heard the news?\" asked {p}.",
            "\"Is {v} back?\" {p} asked {q} on the quay.",
            "{p} came running up the street to {q}.",
        ],
        &[
            "\"{^v} is late,\" said {q}. \"There was a storm near {t.island}.\"",
            "\"{^v} came in this morning with {v.cargo},\" {q} told {p.him}.",
            "\"They say that {v} lost a sail,\" said {q}.",
        ],
        &[
            "\"And {v.captain1}?\" asked {p.1}. \"Is {v.he} safe?\"",
            "\"When will it sail again?\" {p.1} wanted to know.",
            "\"I hope that nobody was hurt,\" said {p.1}.",
        ],
        &[
            "\"Everyone is safe,\" said {q.1}.",
            "\"On {day}, if the weather is good,\" said {q.1}.",
            "\"Ask the harbour master,\" said {q.1}. \"I only know what people say.\"",
        ],
    ],
    // Work.
    &[
        &["\"Do you like your work?\" {q} asked {p}, the {p.job}.", "{q} watched {p}, the {p.job}, for a while."],
        &[
            "\"It is hard,\" said {p.1}, \"but I would not do anything else.\"",
            "\"Most days I do,\" said {p.1}.",
            "\"Ask me again when the rain stops,\" {p.1} answered.",
        ],
        &[
            "\"I could never do that,\" said {q.1}. \"I would fall asleep.\"",
            "\"Could you teach me?\" asked {q.1}.",
            "\"My father did the same work,\" said {q.1}, \"and he never complained.\"",
        ],
        &[
            "\"Come on {day} {time},\" said {p.1}, \"and I will show you.\"",
            "\"You have your own work, and that is good too,\" said {p.1}.",
            "{p.1} only smiled.",
        ],
    ],
    // Illness.
    &[
        &["\"You look pale,\" said {q} to {p}.", "{q} found {p} in bed on {day}."],
        &[
            "\"I have a cold,\" said {p.1}. \"I cannot work on {day}.\"",
            "\"My head hurts,\" {p.1} said, \"and my feet are like ice.\"",
            "\"I am sick,\" said {p.1}. \"Somebody else must go to {place}.\"",
        ],
        &[
            "\"I will go for you,\" said {q.1}.",
            "\"Stay in bed and drink tea,\" said {q.1}. \"I will bring you {p.likes}.\"",
            "\"{^r.1} can do it,\" said {q.1}. \"I will ask {r.him}.\"",
        ],
        &["\"What would I do without you?\" said {p.1}.", "\"Thank you,\" {p.1} said and went back to sleep."],
    ],
    // Advice about a way.
    &[
        &[
            "\"How do I get to {place}?\" a traveller asked {p}.",
            "a sailor who was new in {t} asked {p} the way to {s}.",
        ],
        &[
            "\"Go down {s.street} and turn left at the {t.landmark},\" said {p.1}.",
            "\"It is not far,\" said {p.1}. \"Follow the sound of the bell.\"",
            "\"You are going the wrong way,\" said {p.1}. \"Turn around.\"",
        ],
        &[
            "\"And then?\"",
            "\"Is it a long walk?\"",
            "\"I have been there already,\" said the other, \"and I saw nothing but fog.\"",
        ],
        &[
            "\"Then you will see it. If you come to the sea, you have gone too far.\"",
            "\"You will know it when you smell the {i}.\"",
            "\"Come with me,\" said {p.1}. \"I am going there too.\"",
        ],
    ],
    // Children.
    &[
        &[
            "\"Why is the sea salty?\" a child asked {p}.",
            "\"How many stars are there?\" the youngest child asked {p}.",
            "\"Why do ships not sink?\" a girl asked {p}, the {p.job}.",
        ],
        &[
            "{p.1} thought for a long time.",
            "\"That is a good question,\" said {p.1}.",
            "\"Ask {q},\" said {p.1}. \"{^q.he} knows everything.\"",
        ],
        &[
            "\"Because the fish like it that way,\" {p.he} said at last.",
            "\"More than you can count,\" {p.he} said, \"but you may begin.\"",
            "\"Nobody knows, and anyone who says so is telling stories,\" said {p.he}.",
        ],
        &[
            "the child was not content with that.",
            "\"I will count them tonight,\" said the child.",
            "and the child ran off to ask someone else.",
        ],
    ],
    // A lost thing.
    &[
        &["\"Has anyone seen my {thing}?\" asked {p}.", "\"I have lost my {thing},\" {p} told {q}."],
        &["\"When did you have it last?\" asked {q}.", "\"Was it {colour}?\" asked {q}.", "\"Again?\" said {q}."],
        &["\"On {day}, at {place},\" said {p.1}.", "\"I had it when I left {s},\" said {p.1}."],
        &[
            "\"Then it is there still,\" {q.1} said. \"Go and look.\"",
            "\"I found it on {day2},\" said {q.1}, \"and I gave it to {r}.\"",
            "\"{^r.1} found one just like it at {place2},\" said {q.1}.",
        ],
        &["\"What luck!\" cried {p.1}.", "{p.1} ran off without another word."],
    ],
    // An invitation.
    &[
        &[
            "\"Will you come to my party on {day}?\" {p} asked {q}.",
            "\"There is a dance in {t} on {day},\" {p} said to {q}. \"Will you come?\"",
        ],
        &[
            "\"I would love to,\" said {q.1}. \"What shall I bring?\"",
            "\"I cannot dance,\" said {q.1}.",
            "\"If it does not rain,\" said {q.1}.",
        ],
        &[
            "\"Bring {p.likes} and a good temper,\" said {p.1}.",
            "\"Nobody will look at your feet,\" said {p.1}.",
            "\"Bring {r} too,\" said {p.1}.",
        ],
        &[
            "\"Then I will be there {time}.\"",
            "\"You can count on me,\" said {q.1}.",
            "{q.1} nodded and went on working.",
        ],
    ],
    // Hiring.
    &[
        &[
            "{v.captain}, captain of {v}, was looking for a new hand.",
            "\"I need one more sailor,\" said {v.captain} of {v}.",
        ],
        &["\"Can you cook?\" {v.he} asked {p}.", "\"Have you been to sea before?\" {v.he} asked {p}."],
        &[
            "\"A little,\" said {p.1}.",
            "\"Only on a good day,\" {p.1} said.",
            "\"For {m} years,\" said {p.1}, which was not true.",
        ],
        &[
            "\"We sail on {day} {time}. The pay is {m} coins a week.\"",
            "\"Be on the quay on {day},\" said {v.captain1}.",
        ],
        &[
            "\"Thank you, captain,\" said {p.1}.",
            "\"I will think about it,\" said {p.1}.",
            "but in the end {p.1} stayed at home.",
        ],
    ],
];
