"""English word banks: food, travel, home, pets."""

from contentgen.copywriter.banks import Category

FOOD = Category(
    tags=("FoodDiary", "CafeHopping", "WeekendEats", "GoodFood"),
    scenes=(
        "the smell got to the table before the food did",
        "everyone went quiet at the first bite, which is the only review I trust",
        "I came for a quick bite and was still there when the light changed",
        "the plate arrived and the phones came out, mine included",
    ),
    aspects={
        "the first bite": (
            "the first bite should make you slow down, not reach for the salt",
            "a good first bite has one clear flavour and one small surprise",
        ),
        "the texture": (
            "crisp outside and soft inside still wins every argument at the table",
            "texture is what you remember the next day, long after the garnish is forgotten",
        ),
        "the drink on the side": (
            "the drink should clear the palate, not compete with the plate",
            "something a little sour next to something rich keeps the whole meal light",
        ),
        "the seat you choose": (
            "a seat near the window buys you daylight and better photos",
            "the corner table is where conversations run an hour over time",
        ),
        "the pace of the meal": (
            "nobody rushing you between courses changes the taste of everything",
            "a meal with pauses in it leaves room for dessert and for gossip",
        ),
        "the seasoning": (
            "seasoning that stops just short of too much lets the ingredients talk",
            "a squeeze of citrus at the end did more than another pinch of salt",
        ),
        "the last spoonful": (
            "the last spoonful tells you whether you were hungry or truly happy",
            "if you scrape the bowl, the kitchen has done its job",
        ),
    },
    tips=(
        "go a little before the rush and you get the calm version of the room",
        "order one safe favourite and one thing you cannot pronounce",
        "ask what the staff eat on their break",
        "share two small plates before you commit to a big one",
        "take the photo in the first ten seconds, then put the phone away",
        "check the opening hours on the day, because they change more often than menus do",
        "leave a little room, since the thing you regret is always the dessert you skipped",
    ),
    steps=(
        "pick a day when you are not in a hurry",
        "look at the menu once, then let your nose decide",
        "start with something small and shareable",
        "have the main dish while it is properly hot",
        "end with coffee, tea or a slow walk home",
    ),
    questions=(
        ("Is it better alone or with friends?", "alone you notice more, with friends you taste more"),
        ("What if you are a picky eater?", "start with the simplest thing on offer and work outwards"),
        ("Does it work for a date?", "yes, as long as you choose food that forgives messy hands"),
        ("When is the best moment to go?", "between the usual meal times, when the room can breathe"),
    ),
)

TRAVEL = Category(
    tags=("TravelNotes", "SlowTravel", "WeekendTrip", "Wanderlust"),
    scenes=(
        "I stepped outside and the air already smelled like somewhere else",
        "the best hour of the trip was one that was never on the list",
        "we took a wrong turn early on and decided to keep it",
        "the bag felt light, the shoes were right, and the day was wide open",
    ),
    aspects={
        "the first morning": (
            "an early first morning shows you a place before it puts on its public face",
            "the first morning sets the rhythm, so keep it nearly empty",
        ),
        "the walking route": (
            "a route with one hill and one bench is worth more than five landmarks",
            "walking in a loop means you never have to see the same street twice",
        ),
        "the place you sleep": (
            "a bed close to where you want to be at dusk saves the best light for you",
            "quiet at night matters more than a view you see for ten minutes",
        ),
        "the local food": (
            "following the longest line of locals has rarely let me down",
            "breakfast at a market tells you more than any guided tour",
        ),
        "the weather": (
            "a grey sky empties the crowded spots and softens every photo",
            "one dry layer in the bag turns bad weather into a story",
        ),
        "the packing list": (
            "half the clothes and twice the patience is a fair packing rule",
            "a small bag decides for you, and usually it decides well",
        ),
        "the way back": (
            "the way back is when the trip finally sorts itself into memories",
            "leave a free hour before departure and the goodbye stays gentle",
        ),
    },
    tips=(
        "plan one fixed thing a day and leave the rest open",
        "save an offline map before you need it",
        "check tickets and opening days again the evening before",
        "carry water, a snack and something to sit on",
        "start with the farthest spot and drift back towards your bed",
        "ask for one recommendation in every shop you enter",
        "write three lines each night, because photos forget how things felt",
    ),
    steps=(
        "choose one area and read about it for half an hour",
        "mark three places you would be sad to miss",
        "connect them on foot and see what lies in between",
        "keep one meal and one evening completely unplanned",
        "on the last day, go back to the spot you liked most",
    ),
    questions=(
        ("How many days are enough?", "one day more than the list needs, so that you can also do nothing"),
        ("Is it fine to go solo?", "yes, and you will talk to more people than in a group"),
        ("What should stay at home?", "the third pair of shoes and the hour-by-hour schedule"),
        ("What if it rains?", "move the indoor ideas forward and treat the rain as a discount on crowds"),
    ),
)

HOME = Category(
    tags=("HomeNotes", "CozyCorner", "HomeLiving", "SmallSpaces"),
    scenes=(
        "I moved one lamp and the whole room exhaled",
        "the corner that used to collect boxes is where I drink my tea now",
        "on Sunday the floor was clear, the window was open and nobody wanted to leave",
        "coming home got easier once everything had a place to land",
    ),
    aspects={
        "the light": (
            "two small lamps at different heights beat one bright ceiling light",
            "warm light after dinner tells the whole home that the day is done",
        ),
        "the storage": (
            "closed storage for the boring things leaves open shelves for the dear ones",
            "storage works when putting away takes one movement",
        ),
        "the colour of the walls": (
            "a soft wall colour lets the furniture be the loud one",
            "paint a large sample and watch it for a full day first",
        ),
        "the sofa corner": (
            "a throw, a side table and a plug nearby make a corner you will use",
            "the sofa should face people before it faces the screen",
        ),
        "the kitchen counter": (
            "an empty stretch of counter is an invitation to cook",
            "keep out only what you use every single day",
        ),
        "the scent of the room": (
            "fresh air first and candles second is the honest order",
            "one scent per room is enough, and clean laundry counts",
        ),
        "the green in the window": (
            "one healthy plant does more for a room than five unhappy ones",
            "a plant near the window makes you open the curtains each morning",
        ),
    },
    tips=(
        "start with one drawer and finish it",
        "measure twice, including the doorway",
        "put a basket where the mess lands anyway",
        "live with an empty spot for a week before you fill it",
        "hide the cables and the room looks newly tidied",
        "switch textiles with the seasons instead of buying furniture",
        "let one thing go for each new thing that moves in",
    ),
    steps=(
        "clear the room down to what you truly use",
        "decide what the room is for, in one sentence",
        "place the largest piece and leave a path around it",
        "add light in two or three spots",
        "finish with one personal thing that makes you smile",
    ),
    questions=(
        ("Does it work in a rented flat?", "yes, choose what plugs in, leans or folds and skip the drill"),
        ("What is the cheapest change?", "moving what you own, followed by better light bulbs"),
        ("How do you keep it tidy?", "ten minutes each evening and a home for every object"),
        ("What about small rooms?", "fewer and larger pieces, legs you can see under, and a mirror"),
    ),
)

PETS = Category(
    tags=("PetLife", "FurryFriend", "PetDiary", "AnimalLovers"),
    scenes=(
        "someone with four paws decided that my keyboard was the warmest place in the room",
        "I opened the door and was welcomed as if I had been gone for a year",
        "the new toy was ignored and the cardboard box was adored",
        "a small snore from the sofa is now the soundtrack of my evenings",
    ),
    aspects={
        "the daily routine": (
            "the same hour for food and play makes a calm animal and a calm human",
            "a steady routine says “you are safe here” better than any treat",
        ),
        "the food bowl": (
            "change food slowly, a little more of the new one each day",
            "fresh water in two places gets more visits than one big bowl",
        ),
        "the play time": (
            "ten focused minutes of play tire out more than an hour of toys on the floor",
            "let them win at the end, because confidence is part of the game",
        ),
        "the sleeping spot": (
            "a sleeping spot with a wall behind it feels like a small fortress",
            "the bed they choose is never the one you paid for",
        ),
        "the grooming session": (
            "short grooming with a treat at the end beats one long fight",
            "brushing is also the moment you notice a lump, a tick or a sore spot",
        ),
        "the walk outside": (
            "a walk at nose speed counts for more than a walk at step speed",
            "letting them sniff is the animal version of reading the news",
        ),
        "the visit to the vet": (
            "a carrier that stays out all year stops being a warning sign",
            "write your questions down, because worry erases memory",
        ),
    },
    tips=(
        "learn how they say no, and respect it",
        "keep dangerous snacks and plants out of reach",
        "praise the quiet moments and not only the tricks",
        "rotate toys so that old ones become new again",
        "take a video of odd behaviour for the vet",
        "trim claws one paw a day if patience is short",
        "never punish late, they only learn that you are unpredictable",
    ),
    steps=(
        "prepare one quiet corner with bed, water and something that smells of you",
        "let them explore at their own speed",
        "build the day around food, play and rest",
        "practise one small skill for a few minutes",
        "end each day with a calm ritual you both like",
    ),
    questions=(
        ("What if they hide all day?", "sit nearby with a book and let curiosity do the work"),
        ("How often should you play?", "short and daily is better than long and rare"),
        ("Are two easier than one?", "sometimes, if both get their own bowl, bed and attention"),
        ("When is it time for the vet?", "whenever eating, drinking or moving changes suddenly"),
    ),
)
