"""English word banks: beauty, fashion, fitness, parenting."""

from contentgen.copywriter.banks import Category

BEAUTY = Category(
    tags=("SkincareRoutine", "BeautyNotes", "SelfCare", "GlowGently"),
    scenes=(
        "the bathroom shelf finally looks like a routine instead of a collection",
        "I caught my face in the morning light and did not reach for concealer first",
        "five quiet minutes at the mirror have become the best part of my evening",
        "my skin was tired, and so was my patience with complicated steps",
    ),
    aspects={
        "the texture on the skin": (
            "a texture that sinks in quickly is the one you will really use every day",
            "if it still feels sticky by the time you are dressed, it is too much",
        ),
        "the cleansing step": (
            "clean should feel comfortable, never tight or squeaky",
            "a gentle cleanse at night does more than any mask in the morning",
        ),
        "the morning routine": (
            "a morning routine of three steps survives even the worst alarm clock",
            "daylight care comes down to moisture, protection and leaving the house on time",
        ),
        "the evening routine": (
            "evenings are for taking off, calming down and putting a little back",
            "a slow evening routine is half skincare and half bedtime story",
        ),
        "the finish": (
            "a finish that looks like skin beats one that looks like effort",
            "a little sheen on the cheekbones reads as eight hours of sleep",
        ),
        "the colour choice": (
            "a shade near your own lip colour is the easiest way to look awake",
            "test the colour by a window, because shop lamps flatter everyone",
        ),
        "the patience it takes": (
            "skin answers slowly, so give one change a few weeks before the next",
            "patience is the one ingredient that never irritates",
        ),
    },
    tips=(
        "patch-test anything new on a small area first",
        "change one product at a time so that you know what did what",
        "use less than you think and add only where you need it",
        "bring sunscreen down to your neck and the backs of your hands",
        "wash brushes and pillowcases as faithfully as your face",
        "take a bare-faced photo in the same light once a month",
        "see a dermatologist when the skin hurts, instead of buying another jar",
    ),
    steps=(
        "cleanse gently and pat the skin dry",
        "put on something light while the skin is still slightly damp",
        "seal it with a moisturiser that suits the season",
        "in daylight, finish with sun protection",
        "look again in the evening and note how the skin feels",
    ),
    questions=(
        ("Does a long routine work better?", "only if you keep it up, and short ones are easier to keep"),
        ("What about sensitive skin?", "fewer products, fewer perfumes and plenty of patience"),
        ("When do you see a difference?", "think in weeks rather than days, and compare in the same light"),
        ("Is it fine to mix brands?", "yes, your skin reads the ingredients and not the logo"),
    ),
)

FASHION = Category(
    tags=("OutfitNotes", "EverydayStyle", "WardrobeEdit", "StyleDiary"),
    scenes=(
        "I got dressed in four minutes and felt put together all day",
        "the outfit started with one jacket that had been waiting for its moment",
        "a friend asked where it was from, and it had been in my wardrobe for years",
        "the mirror said yes on the first try, which is rare before coffee",
    ),
    aspects={
        "the silhouette": (
            "loose with slim, long with short: contrast does the work for you",
            "one strong line in the silhouette is enough for a whole look",
        ),
        "the colour palette": (
            "two quiet colours and one loud one is a formula that rarely fails",
            "shades of the same colour make simple pieces look considered",
        ),
        "the fabric": (
            "fabric that moves when you walk makes even plain cuts look alive",
            "touch it first, because the hand knows before the mirror does",
        ),
        "the fit": (
            "shoulders and hem decide the fit, the rest can be taken in",
            "a small alteration turns a good find into your own piece",
        ),
        "the shoe choice": (
            "shoes set the mood, so choose them first on undecided mornings",
            "a clean pair of flat shoes carries more outfits than any heel",
        ),
        "the one accessory": (
            "a single accessory with a story beats three without one",
            "a belt or a scarf gives the eye a place to rest",
        ),
        "the layer on top": (
            "a light layer turns one outfit into two between noon and night",
            "sleeves pushed up once change the whole attitude of a jacket",
        ),
    },
    tips=(
        "lay the outfit out the evening before",
        "wear new pieces with two old friends from the wardrobe",
        "take a quick photo of every look that worked",
        "sit, reach and climb a stair before you keep it",
        "steam it, since five minutes of steam look like money",
        "repeat outfits proudly, because that is what a style is",
        "give away what you skipped for two seasons",
    ),
    steps=(
        "pick the piece you want to wear most",
        "balance its shape with something opposite",
        "choose shoes that can handle the day",
        "add one accent near the face",
        "take one thing off before you leave",
    ),
    questions=(
        ("Can it work for the office?", "swap the shoes, add a blazer and nobody will object"),
        ("What if you are petite?", "raise the waistline and keep the colours in one line"),
        ("Is it fine to mix patterns?", "yes, if they share a colour and differ in size"),
        ("Where do you start with a full wardrobe?", "with the five pieces you already wear every week"),
    ),
)

FITNESS = Category(
    tags=("FitnessDiary", "MoveDaily", "HealthyHabits", "TrainingNotes"),
    scenes=(
        "the shoes were by the door, so I ran out of excuses before I ran at all",
        "halfway through I wanted to stop, and two minutes later I had forgotten why",
        "my legs complained on the stairs, and I took it as a compliment",
        "the music started, the shoulders dropped and the day fell off somewhere on the way",
    ),
    aspects={
        "the warm-up": (
            "five honest minutes of warm-up save five annoying days of stiffness",
            "a warm-up is how you ask the body before you demand something",
        ),
        "the form": (
            "clean form with little weight beats heroic numbers with a crooked back",
            "filming one set shows you what no mirror does",
        ),
        "the breathing": (
            "breathing out on the effort makes the same weight feel lighter",
            "if you cannot talk at all, the easy day is not easy enough",
        ),
        "the weekly rhythm": (
            "three modest sessions every week outrun one perfect session a month",
            "a fixed day takes the decision away, and the excuse with it",
        ),
        "the rest day": (
            "muscle is built on the rest day, the gym only places the order",
            "a walk and an early night is a training plan too",
        ),
        "the meal afterwards": (
            "something with protein and something colourful is all the theory I follow",
            "eating well after training feels like closing the circle",
        ),
        "the small progress": (
            "one more repetition is progress, even if nobody claps",
            "write progress down, because the mirror is slow and moody",
        ),
    },
    tips=(
        "pack the bag the night before",
        "start lighter than your pride suggests",
        "drink water before you feel thirsty",
        "stop at sharp pain and ask a professional",
        "find one person who notices when you skip",
        "keep a two-minute version for bad days",
        "sleep first, supplements later",
    ),
    steps=(
        "choose a time you can keep on an ordinary week",
        "warm up until you feel loose and warm",
        "do the main part with attention and good form",
        "cool down slowly and stretch what feels tight",
        "write one line about how it went",
    ),
    questions=(
        ("What if motivation disappears?", "do the first five minutes only, and then you may stop"),
        ("Is soreness a good sign?", "a little is normal, sharp pain never is"),
        ("Can you start without equipment?", "yes, a floor, a wall and a staircase go a long way"),
        ("How soon will you notice something?", "sleep and mood come first, the mirror comes later"),
    ),
)

PARENTING = Category(
    tags=("ParentingNotes", "FamilyLife", "LittleMoments", "GrowingUp"),
    scenes=(
        "the question came from the back seat, and I still do not have a good answer",
        "there was glue on the table, paint on the chair and a very proud face in between",
        "bedtime took forever and ended with the best hug of the week",
        "I had planned an activity, and the puddle outside had a better plan",
    ),
    aspects={
        "the bedtime ritual": (
            "the same three steps each night do half of the persuading for you",
            "a story in a low voice slows down the teller as well",
        ),
        "the play corner": (
            "fewer toys in sight make longer and deeper play",
            "boredom is the door that imagination uses",
        ),
        "the family meal": (
            "a family meal counts even when half of it ends up under the table",
            "letting small hands help in the kitchen opens stubborn mouths",
        ),
        "the big feeling": (
            "a name for the feeling is the first step out of it",
            "a hug before the lesson makes the lesson shorter",
        ),
        "the screen question": (
            "a clear end agreed beforehand saves the fight afterwards",
            "watching together turns a screen into a conversation",
        ),
        "the time outdoors": (
            "wet socks dry, and memories of rain stay",
            "outdoors there is no wrong volume for a voice",
        ),
        "the time for yourself": (
            "a parent who has slept is the best toy in the house",
            "ten minutes alone with a warm cup is also childcare",
        ),
    },
    tips=(
        "offer two choices that are both fine with you",
        "announce the end of play five minutes early",
        "praise the effort and describe what you saw",
        "keep spare clothes where you need them",
        "say sorry when you were wrong, they are watching how it is done",
        "lower the bar on hard days and call it wisdom",
        "ask for help before you are empty",
    ),
    steps=(
        "pick one moment of the day that keeps going wrong",
        "explain the new plan in one short sentence",
        "practise it once when everyone is in a good mood",
        "stick with it for a week, kindly",
        "celebrate what got a little easier",
    ),
    questions=(
        ("What if nothing works today?", "feed everyone, go outside and try again tomorrow"),
        ("Is it normal to feel tired of it?", "very, and saying so aloud helps more than hiding it"),
        ("How strict should one be?", "firm about safety, relaxed about socks"),
        ("How do you agree with each other?", "talk when the children sleep and not in the storm"),
    ),
)
