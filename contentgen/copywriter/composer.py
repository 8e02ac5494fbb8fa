"""Composes a post from a brief: chooses the words, lays out the parts and keeps to the length."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, cycle, islice, permutations
from operator import itemgetter
from typing import Final, TypeVar

from contentgen.copywriter.banks import Bank, Category, Patterns, Voice
from contentgen.copywriter.chinese import CHINESE
from contentgen.copywriter.english import ENGLISH
from contentgen.copywriter.keywords import CATEGORIES, TONES, recognise
from contentgen.copywriter.pieces import Language, as_tag, clean, mention, quotable, sentences

MIN_CHARACTERS: Final = 20
MAX_CHARACTERS: Final = 20_000

_BANKS: Final[dict[Language, Bank]] = {"zh": CHINESE, "en": ENGLISH}
_TOPIC_LIMIT: Final = 40
_AUDIENCE_LIMIT: Final = 30
_REQUIREMENT_LIMIT: Final = 120
_TERMINAL: Final = (".", "?", "!", "…", "。", "？", "！", "～")

# Thresholds of the layout, in Chinese characters or as much text in the other language (``Bank.density``).
_SLACK: Final = 8
_FULL_NOTE: Final = 125
_WITH_CLOSING: Final = 90
_WITH_TAGS: Final = 90
_WITH_TIPS: Final = 260
_WITH_MORE_TIPS: Final = 340
_WITH_QUESTIONS: Final = 420
_WITH_PLAN: Final = 600
_WITH_HEADINGS: Final = 700
_LARGE: Final = 1200
_SECTION_LEAST: Final = 30
_SHORT_PARAGRAPH: Final = 40
_PATIENCE: Final = 8
"""Paragraphs that may be found too long for the room left before a text counts as full."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class CopyRequest:
    """A brief. ``characters`` is the wanted length of the whole text in code points, 20 to 20 000.

    ``category`` and ``tone`` are free text in either language; what is not recognised falls back to the topic's
    own category, or to the general one, and to a plain tone. Raises ``ValueError`` for a length out of range.
    """

    topic: str
    language: Language
    characters: int
    category: str = ""
    tone: str = ""
    audience: str = ""
    requirements: str = ""

    def __post_init__(self) -> None:
        if not MIN_CHARACTERS <= self.characters <= MAX_CHARACTERS:
            raise ValueError(
                f"characters must be {MIN_CHARACTERS} to {MAX_CHARACTERS}, not {self.characters}"
            )


@dataclass(frozen=True, slots=True)
class Piece:
    """A finished post. ``paragraphs`` may be Markdown headings and lists; ``tags`` come without ``#``."""

    title: str
    paragraphs: tuple[str, ...]
    tags: tuple[str, ...]
    note: str
    """Says honestly that templates wrote this, not a model."""

    @property
    def text(self) -> str:
        """The whole post as light Markdown."""
        tags = [" ".join(f"#{tag}" for tag in self.tags)] if self.tags else []
        return "\n\n".join([f"# {self.title}", *self.paragraphs, *tags, f"*{self.note}*"])


def compose(request: CopyRequest) -> Piece:
    """Write the post that ``request`` asks for.

    The same request gives the same piece on every machine, and no sentence occurs twice in it. From 150
    characters up the length of ``Piece.text`` stays within 20 % of the target. Below that a title, at least one
    sentence and a short note remain, whatever the target: some 40 to 50 characters in Chinese and 90 to 110 in
    English.
    """
    return _Composer(request).piece()


@dataclass(slots=True)
class _Section:
    """A run of candidate lines under an optional heading."""

    lines: Iterable[str]
    heading: str = ""
    glue: str = "\n"


class _Composer:
    """One piece in the making. ``room`` is what is left of the length, in code points."""

    def __init__(self, request: CopyRequest) -> None:
        self.bank: Bank = _BANKS[request.language]
        self.target = request.characters
        self.weight = request.characters / self.bank.density
        self.whole_topic = clean(request.topic) or self.bank.untitled
        self.topic = mention(
            self.whole_topic, _TOPIC_LIMIT if self.target >= 150 else max(16, self.target // 4)
        )
        self.audience = mention(clean(request.audience), _AUDIENCE_LIMIT)
        requirement_limit = max(24, min(_REQUIREMENT_LIMIT, self.target // 6))
        self.requirement = mention(clean(request.requirements), requirement_limit)
        self.own_category = clean(request.category)
        key = recognise(self.own_category, CATEGORIES)
        self.category_known = key is not None
        key = key or recognise(self.whole_topic, CATEGORIES) or "general"
        self.category: Category = self.bank.categories[key]
        self.voice: Voice = self.bank.voices[recognise(clean(request.tone), TONES) or "plain"]
        neutral, personal = self.bank.neutral, self.bank.personal
        self.patterns = neutral
        if self.voice.personal:
            self.patterns = Patterns(
                angles=neutral.angles + personal.angles,
                moments=neutral.moments + personal.moments,
                pairs=neutral.pairs + personal.pairs,
            )
        self.draws = _draws(request)
        self.seen: set[str] = set()
        self.endings = cycle(self.voice.endings)
        self.frames = deque(self._shuffled(self.voice.frames))
        self.aspects = self._shuffled(tuple(self.category.aspects))
        self.details = self._shuffled(
            [(aspect, clause) for aspect, clauses in self.category.aspects.items() for clause in clauses]
        )
        self.angles = self._mixed_angles()
        # A little more is let in, because what is left at the end is always too short for a sentence.
        self.room = self.target + round(_SLACK * self.bank.density)

    def piece(self) -> Piece:
        title = self._title()
        note = self.bank.note if self.weight >= _FULL_NOTE else self.bank.short_note
        tags = self._tags() if self.weight >= _WITH_TAGS else ()
        self.room -= len(Piece(title, (), tags, note).text)
        opening = self._opening()
        closing = self._one_of(self.voice.closings) if self.weight >= _WITH_CLOSING else []
        lists = self._lists()
        first, more = self._prose()
        return Piece(title, (*opening, *first, *lists, *more, *closing), tags, note)

    # The parts of a piece

    def _title(self) -> str:
        titles = [self._filled(title) for title in self._shuffled(self.voice.titles)]
        return next((title for title in titles if len(title) <= self.target * 0.4), self.topic)

    def _tags(self) -> tuple[str, ...]:
        most = 2 if self.weight < _WITH_TIPS else 4
        asked = self.whole_topic, "" if self.category_known else self.own_category
        own = [tag for tag in map(as_tag, asked) if tag]
        return tuple(dict.fromkeys([*own, *self._shuffled(self.category.tags)]))[:most]

    def _opening(self) -> list[str]:
        openings = [self._filled(opening) for opening in self._shuffled(self.voice.openings)]
        scenes = [self._ended(scene) for scene in self.category.scenes if self.voice.personal]
        share = self.room * (0.6 if self.weight < _WITH_TIPS else 0.4)
        if self.requirement and self.weight < _WITH_TAGS:
            share = min(map(len, openings))
        first = next((line for line in openings if len(line) <= share), min([*openings, *scenes], key=len))
        lines = [first]
        self.seen.update(sentences(first))
        self.room -= len(first) + len("\n\n")
        wishes: list[Sequence[str]] = []
        if self.requirement:
            wishes.append([self._filled(line) for line in self._shuffled(self.voice.requirement)])
        if self.audience:
            wishes.append([self._filled(line) for line in self._shuffled(self.voice.audience)])
        if len(self.whole_topic) > _TOPIC_LIMIT and len(self.whole_topic) < self.target / 4:
            wishes.append([self.bank.full_topic.format(topic=quotable(self.whole_topic))])
        for wish in wishes:
            lines += self._taken(wish, self.bank.joiner, most=1)
        return [self.bank.joiner.join(lines)]

    def _one_of(self, templates: Sequence[str]) -> list[str]:
        return self._taken((self._filled(line) for line in self._shuffled(templates)), "\n\n", most=1)

    def _lists(self) -> list[str]:
        """Tips, plan and questions, as many as the length is good for."""
        voice, category, weight = self.voice, self.category, self.weight
        blocks: list[str] = []
        if weight >= _WITH_TIPS:
            most = 3 if weight < _WITH_MORE_TIPS else 5 if weight < _LARGE else len(category.tips)
            tips = (f"- {voice.mark}{self._plainly(tip)}" for tip in self._shuffled(category.tips))
            blocks += self._block(_Section(tips, voice.tips_heading), most)
        if weight >= _WITH_PLAN:
            steps = (
                f"{number}. {self._plainly(step)}" for number, step in enumerate(category.steps, start=1)
            )
            blocks += self._block(_Section(steps, voice.plan_heading), len(category.steps))
        if weight >= _WITH_QUESTIONS:
            most = 2 if weight < _LARGE else len(category.questions)
            blocks += self._block(_Section(self._answered(), voice.questions_heading, "\n\n"), most)
        return blocks

    def _answered(self) -> Iterator[str]:
        leads = deque(self._shuffled(self.voice.answers))
        for number, (question, answer) in enumerate(self._shuffled(self.category.questions)):
            lead = leads.popleft() if leads and number % 2 == 0 else "{x}"
            yield f"**{question}**\n{self._ended(lead.format(x=answer))}"

    def _prose(self) -> tuple[list[str], list[str]]:
        """The running text before and after the lists; takes all the room that is left."""
        first: list[str] = []
        for section in self._story():
            self._add(first, self._block(section))
        more: list[str] = []
        misses = 0
        for section in self._rounds():
            block = self._block(section)
            misses += not block
            if misses == _PATIENCE:
                break
            self._add(more or first if self._is_short(block) else more, block)
        # Without headings the running text stays together, above the lists.
        return (first, more) if self.weight >= _WITH_HEADINGS else (first + more, [])

    def _is_short(self, block: Sequence[str]) -> bool:
        return len(block) == 1 and len(block[0]) < _SHORT_PARAGRAPH * self.bank.density

    def _add(self, blocks: list[str], block: Sequence[str]) -> None:
        """Append ``block``, or let it end the paragraph before if it is too short to stand alone."""
        if blocks and self._is_short(block):
            blocks[-1] += self.bank.joiner + block[0]
        else:
            blocks.extend(block)

    def _story(self) -> Iterator[_Section]:
        scenes = self._shuffled(self.category.scenes)
        for scene in scenes[: 1 if self.weight < _WITH_TIPS else 2 if self.weight < _WITH_QUESTIONS else 3]:
            told = self.details[:2]
            del self.details[:2]
            yield _Section(self._paragraph(scene, told), glue=self.bank.joiner)
        if self.weight < _WITH_HEADINGS:
            return
        for aspect in self.aspects:
            yield _Section(
                self._close_up(aspect), f"{self.voice.mark}{self._capital(aspect)}", self.bank.joiner
            )

    def _paragraph(self, scene: str, details: Sequence[tuple[str, str]]) -> Iterator[str]:
        if self.voice.personal:
            yield self._ended(scene)
        for aspect, clause in details:
            yield self._ended(self._framed(clause))
            yield self._ended(self._angle(aspect))

    def _close_up(self, aspect: str) -> Iterator[str]:
        clauses = [clause for about, clause in self.details if about == aspect]
        for number, clause in enumerate(clauses):
            yield self._ended(self._framed(clause) if number == 0 else clause)
            yield self._ended(self._angle(aspect))
        yield self._ended(self._angle(aspect))

    def _rounds(self) -> Iterator[_Section]:
        """All the combinations that the banks have left, four sentences to a paragraph, some with headings."""
        headings = deque(self._shuffled(self.bank.more_headings))
        lines = self._combinations()
        number = 0
        while paragraph := list(islice(lines, 4)):
            with_heading = self.weight >= _WITH_HEADINGS and number % 3 == 0 and headings
            heading = f"{self.voice.mark}{headings.popleft()}" if with_heading else ""
            yield _Section(paragraph, heading, self.bank.joiner)
            number += 1

    def _combinations(self) -> Iterator[str]:
        moments = self._moments()
        sources = deque([moments, self._pairs(), moments, self._all_angles()])
        while sources:
            line = next(sources[0], None)
            if line is None:
                sources.popleft()
            else:
                yield self._ended(line)
                sources.rotate(-1)

    # Every loop below meets each combination once, and changes all of its members from one to the next.

    def _moments(self) -> Iterator[str]:
        templates, whens = self._shuffled(self.patterns.moments), self._shuffled(self.bank.whens)
        for turn in range(len(self.aspects)):
            for shift in range(len(whens)):
                for number, template in enumerate(templates):
                    when = whens[(number + shift) % len(whens)]
                    aspect = self.aspects[(number + shift + turn) % len(self.aspects)]
                    yield self._filled(template, when=when, aspect=aspect)

    def _pairs(self) -> Iterator[str]:
        templates, pairs = (
            self._shuffled(self.patterns.pairs),
            self._shuffled(tuple(permutations(self.aspects, 2))),
        )
        for turn in range(len(pairs)):
            for number, template in enumerate(templates):
                aspect, other = pairs[(number + turn) % len(pairs)]
                yield self._filled(template, aspect=aspect, other=other)

    def _all_angles(self) -> Iterator[str]:
        templates = tuple(self.angles)
        for turn in range(len(self.aspects)):
            for number, template in enumerate(templates):
                yield self._filled(template, aspect=self.aspects[(number + turn) % len(self.aspects)])

    # Sentences

    def _mixed_angles(self) -> deque[str]:
        """The angles of the voice and the shared ones by turns, so that every passage has the tone."""
        own, shared = self._shuffled(self.voice.angles), self._shuffled(self.patterns.angles)
        return deque(
            [angle for pair in zip(own, shared, strict=False) for angle in pair] + shared[len(own) :]
        )

    def _angle(self, aspect: str) -> str:
        template = self.angles[0]
        self.angles.rotate(-1)
        return self._filled(template, aspect=aspect)

    def _framed(self, clause: str) -> str:
        return self.frames.popleft().format(x=clause) if self.frames else clause

    def _ended(self, line: str) -> str:
        line = self._capital(line)
        return line if line.endswith(_TERMINAL) else line + next(self.endings)

    def _plainly(self, line: str) -> str:
        """Ended for a list, where changing emoji would be noise."""
        return self._capital(line) + self.voice.endings[0]

    def _capital(self, line: str) -> str:
        return line[0].upper() + line[1:] if self.bank.capitals else line

    def _filled(self, template: str, **slots: str) -> str:
        filled = template.format(
            topic=self.topic,
            audience=self.audience,
            requirement=quotable(self.requirement),
            good=self.voice.good,
            like=self.voice.like,
            **slots,
        )
        if not self.topic.endswith("…"):
            return filled
        return filled.replace(f"{self.topic}.", self.topic).replace(f"{self.topic}。", self.topic)

    # Room and repetition

    def _taken(self, lines: Iterable[str], glue: str, most: int) -> list[str]:
        """The first lines, ``most`` at most, that fit into the room and say nothing twice."""
        taken: list[str] = []
        for line in lines:
            keys = sentences(line)
            cost = len(line) + len(glue)
            if cost > self.room or len(set(keys)) < len(keys) or not self.seen.isdisjoint(keys):
                continue
            self.seen.update(keys)
            self.room -= cost
            taken.append(line)
            if len(taken) == most:
                break
        return taken

    def _block(self, section: _Section, most: int = 1000) -> list[str]:
        """The section as Markdown blocks; nothing if there is no room for it to make sense."""
        heading = [f"## {section.heading}"] if section.heading else []
        frame = sum(len(line) + len("\n\n") for line in heading) + len("\n\n") - len(section.glue)
        if heading and self.room < frame + _SECTION_LEAST * self.bank.density:
            return []
        self.room -= frame
        lines = self._taken(section.lines, section.glue, most)
        if not lines:
            self.room += frame
            return []
        self.seen.update(sentences(section.heading))
        return [*heading, section.glue.join(lines)]

    # Small helpers

    def _shuffled(self, items: Sequence[T]) -> list[T]:
        return [item for _, item in sorted(zip(self.draws, items, strict=False), key=itemgetter(0))]


def _draws(request: CopyRequest) -> Iterator[bytes]:
    """Endless random bytes that depend on nothing but the brief; not even on the version of Python."""
    brief = (
        request.topic,
        request.language,
        str(request.characters),
        request.category,
        request.tone,
        request.audience,
        request.requirements,
    )
    seed = hashlib.sha256("\x1f".join(brief).encode("utf-8", "surrogatepass"))
    for number in count():
        draw = seed.copy()
        draw.update(number.to_bytes(8, "big"))
        yield draw.digest()
