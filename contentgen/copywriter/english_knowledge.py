"""English word banks: technology, books, work, and the general one."""

from contentgen.copywriter.banks import Category

TECH = Category(
    tags=("TechNotes", "GadgetLife", "EverydayTech", "HandsOn"),
    scenes=(
        "the box was open for five minutes before I forgot that I had meant to take photos",
        "after a week it had quietly earned its place on the desk",
        "I stopped reading spec sheets and simply used it like a normal person",
        "the old one went into the drawer and, so far, it has stayed there",
    ),
    aspects={
        "the first setup": (
            "a setup that ends before the coffee gets cold is a promise of good design",
            "the first setup is the moment to switch off every notification you never asked for",
        ),
        "the battery": (
            "a battery is good when you stop thinking about the charger",
            "judge the battery on your worst day and not on a quiet one",
        ),
        "the feel in the hand": (
            "weight in the right place feels like quality before any button is pressed",
            "edges and buttons are what your fingers review every single day",
        ),
        "the screen": (
            "brightness outdoors and calm at night matter more than big numbers",
            "a screen you do not notice is a screen that does its job",
        ),
        "the software": (
            "good software asks you once and remembers the answer",
            "updates say more about a product than its launch does",
        ),
        "the daily speed": (
            "speed is how fast the thing you open most often opens",
            "one stutter in the wrong second costs more than a slow start",
        ),
        "the privacy side": (
            "the privacy page deserves the ten minutes we all save on it",
            "a permission you refuse is one you never have to worry about",
        ),
    },
    tips=(
        "write down the three things you will do with it most",
        "hold it before you buy it",
        "back up before the first update",
        "turn off half of the notifications on day one",
        "compare it with what you own instead of with a perfect world",
        "keep the box until the return period is over",
        "clean the ports and the lens before you blame the device",
    ),
    steps=(
        "decide which problem it has to solve",
        "set it up with only the basics",
        "use it for a full ordinary week",
        "note each moment of friction in one line",
        "keep it, tune it or give it back",
    ),
    questions=(
        ("Is it worth upgrading?", "if your current one annoys you daily, yes; if it only bores you, wait"),
        ("Do beginners get along with it?", "yes, if they ignore the advanced menu for the first week"),
        ("What should you check first?", "the one feature you would miss most on a bad day"),
        ("Will it last?", "look at repair options and update promises before you look at colours"),
    ),
)

BOOKS = Category(
    tags=("ReadingNotes", "BookTalk", "LifelongLearning", "StudyDiary"),
    scenes=(
        "I opened it on the train and missed my stop",
        "the margins are full of pencil marks, and most of them are questions",
        "one paragraph made me put everything down and look out of the window",
        "I meant to read ten pages and then the tea was cold",
    ),
    aspects={
        "the opening chapter": (
            "a good opening chapter asks a question you did not know you had",
            "if the start is slow, give it the length of one cup of tea",
        ),
        "the main idea": (
            "an idea is yours once you can explain it without the book",
            "the main idea grew bigger when I argued with it",
        ),
        "the note-taking": (
            "three lines in your own words beat thirty lines of highlighting",
            "notes are letters to the person you will be in a month",
        ),
        "the reading hour": (
            "the same chair at the same hour turns reading into a habit",
            "twenty pages with the phone in another room feel like a holiday",
        ),
        "the difficult part": (
            "read the hard part twice, once slowly and once aloud",
            "confusion is often the feeling of learning from the inside",
        ),
        "the practice afterwards": (
            "using one idea the same day keeps it alive",
            "teaching a friend is the most honest exam",
        ),
        "the line you underline": (
            "the line you underline says as much about you as about the author",
            "copying a sentence by hand shows you how it is built",
        ),
    },
    tips=(
        "decide on one question before you start",
        "close the page and recall before you reread",
        "stop in the middle of something good, so that you want to return",
        "keep a list of words and ideas to look up later",
        "give up on what bores you without guilt",
        "review after a day, after a week and after a month",
        "talk about it with someone who disagrees",
    ),
    steps=(
        "skim the contents and guess what each part will say",
        "read in short, undisturbed stretches",
        "write a summary from memory",
        "compare it with the text and fill the gaps",
        "apply one thing before you start the next chapter",
    ),
    questions=(
        ("What if there is no time?", "ten minutes before bed add up faster than you think"),
        ("Paper or screen?", "the one you will have with you when you are waiting"),
        ("Should you finish everything?", "no, but give it a fair chance before you leave"),
        ("How do you remember more?", "test yourself instead of reading it again"),
    ),
)

WORK = Category(
    tags=("WorkNotes", "CareerTalk", "BetterMeetings", "OfficeLife"),
    scenes=(
        "the meeting ended early because somebody finally asked the simple question",
        "my to-do list was long, and the important line was the one I kept moving",
        "we wrote the decision down, and suddenly everyone remembered the same thing",
        "a short honest message did what three polite ones had not done",
    ),
    aspects={
        "the first hour": (
            "the first hour belongs to the hardest task, before the inbox wakes up",
            "a quiet first hour sets the tone for every call that follows",
        ),
        "the goal": (
            "a goal that fits in one sentence survives the first surprise",
            "when the goal is vague, everyone is busy and nobody is done",
        ),
        "the feedback": (
            "useful feedback names one thing to keep and one thing to change",
            "asking for feedback early makes it smaller and kinder",
        ),
        "the meeting": (
            "a meeting without a written question becomes a conversation with chairs",
            "the best minutes fit on one screen and name who does what",
        ),
        "the handover": (
            "a clean handover answers the question that comes at five on a Friday",
            "write the handover as if you were the one who receives it",
        ),
        "the difficult talk": (
            "start the difficult talk with what you both want",
            "silence after a question is thinking time, so let it be",
        ),
        "the boundary": (
            "a clear boundary today is better than a long apology next month",
            "saying no to one thing is how you say yes to your main work",
        ),
    },
    tips=(
        "put the most important task on the calendar",
        "send the question before the meeting",
        "write decisions down on the day you make them",
        "say what you will drop when you accept something new",
        "thank people for specific things",
        "keep a list of finished work for your next review",
        "close the laptop at a time you have chosen",
    ),
    steps=(
        "write down the result you need and by when",
        "list what is unclear and who can answer it",
        "do the smallest useful piece first",
        "show it early and listen",
        "review what worked before you start the next round",
    ),
    questions=(
        ("What if priorities keep changing?", "ask which one may slip, in writing and without drama"),
        ("How do you handle a tense team?", "slow down, name the facts and agree on one next step"),
        ("Is overtime the answer?", "now and then for a rescue, never as a plan"),
        ("How do you become visible?", "share finished work, clear notes and credit for others"),
    ),
)

GENERAL = Category(
    tags=("EverydayNotes", "LifeNotes", "WorthSharing", "SmallThings"),
    scenes=(
        "it began as a passing thought and ended up filling a page",
        "I thought I knew enough about it, and then somebody asked me why",
        "a friend brought it up over tea, and we talked until the cups were empty",
        "sometimes the ordinary things deserve a second look",
    ),
    aspects={
        "the starting point": (
            "the starting point is rarely perfect, and it does not have to be",
            "beginning small keeps the door open for changing your mind",
        ),
        "the everyday side": (
            "ideas show what they are worth on an ordinary Tuesday",
            "what you can keep up daily matters more than what looks impressive once",
        ),
        "the hard part": (
            "naming the hard part makes it about half as hard",
            "most people stop just before it becomes easier",
        ),
        "the small detail": (
            "it is usually a small detail that people remember afterwards",
            "one detail done with care changes how the whole thing feels",
        ),
        "the time it takes": (
            "good things take about as long as they take, and a bit of tea",
            "a little time every day adds up while nobody is looking",
        ),
        "the other view": (
            "a different view is a free upgrade if you listen to the end",
            "the person who disagrees often sees the gap first",
        ),
        "the next step": (
            "the next step only has to be clear, not big",
            "a next step with a date on it has a way of happening",
        ),
    },
    tips=(
        "write down in one sentence what you want from it",
        "try the smallest version first",
        "ask somebody who has done it before",
        "keep what works and drop the rest without guilt",
        "leave some space between the plan and the day",
        "look back after a week and adjust one thing",
        "share what you learn, because explaining makes it clearer",
    ),
    steps=(
        "look at where you stand today",
        "choose one thing you would like to change",
        "give it a fixed moment in the week",
        "keep a short note of what happens",
        "decide after a month whether to go on",
    ),
    questions=(
        ("Where should a beginner start?", "with whatever can be done today without buying anything"),
        ("What is the most common mistake?", "wanting everything at once and then stopping altogether"),
        ("Is it worth the effort?", "if you still think about it tomorrow, probably yes"),
        ("What if it does not work out?", "then you know more than before, and that was cheap"),
    ),
)
