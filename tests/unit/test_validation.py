from __future__ import annotations

from typing import Any

import pytest
from django.utils import translation
from hypothesis import given
from hypothesis import strategies as st
from pytest_django import Settings

from contentgen.brief import Brief
from contentgen.validation import parse
from streaming import validation
from streaming.problems import FieldError, Problem
from streaming.validation import MAX_FAULTS

LONE_SURROGATE = "\ud83d"


@pytest.fixture(autouse=True)
def english_and_offline(settings: Settings):
    settings.CONTENT_PROVIDER = "offline"
    settings.ALLOW_SCRIPTED_PROVIDER = True
    with translation.override("en"):
        yield


def brief(**values: Any) -> Brief:
    return parse({"user_id": "u1", "topic": "tea"} | values)


def refusal(values: dict[str, Any]) -> Problem:
    with pytest.raises(Problem) as caught:
        parse(values)
    return caught.value


def faults(**values: Any) -> list[tuple[str, str]]:
    """Field and code of each fault of an otherwise sound brief, which must be a 422."""
    problem = refusal({"user_id": "u1", "topic": "tea"} | values)
    assert problem.status == 422
    assert all(fault.message for fault in problem.fields)
    return [(fault.field, fault.code) for fault in problem.fields]


def sentence(**values: Any) -> str:
    (fault,) = refusal({"user_id": "u1", "topic": "tea"} | values).fields
    return fault.message


# --- Required and blank --------------------------------------------------------------------------------


def test_user_and_topic_suffice() -> None:
    made = brief()
    assert (made.user_id, made.topic, made.language, made.provider) == ("u1", "tea", "en", "offline")
    assert (made.length, made.characters) == ("medium", 900)
    assert (made.priority, made.on_disconnect, made.max_tokens, made.model, made.options) == (None,) * 5


def test_required_fields() -> None:
    problem = refusal({})
    assert (problem.status, problem.code) == (422, "missing_field")
    assert [(fault.field, fault.code) for fault in problem.fields] == [
        ("user_id", "missing_field"),
        ("topic", "missing_field"),
    ]


@pytest.mark.parametrize("field", ["user_id", "topic"])
@pytest.mark.parametrize("blank", ["", " ", "\u3000", "\u200b", " \u200b\u2060\ufeff ", "\u2028"])
def test_required_fields_must_not_be_blank(field: str, blank: str) -> None:
    assert faults(**{field: blank}) == [(field, "blank")]


def test_a_topic_of_control_characters_is_blank() -> None:
    assert faults(topic="\t\n") == [("topic", "blank")]
    assert faults(topic="\x00") == [("topic", "blank")]


def test_optional_texts_may_be_blank() -> None:
    assert brief(tone="", category=" ").category == " "


# --- Types ---------------------------------------------------------------------------------------------

TEXT_FIELDS = ["user_id", "topic", "category", "tone", "audience", "requirements"]
NULLABLE_TEXT_FIELDS = ["language", "provider", "model", "priority"]


@pytest.mark.parametrize("field", TEXT_FIELDS + NULLABLE_TEXT_FIELDS)
@pytest.mark.parametrize("value", [5, 5.5, True, [], ["tea"], {}])
def test_text_is_not_made_from_other_types(field: str, value: object) -> None:
    assert faults(**{field: value}) == [(field, "wrong_type")]


@pytest.mark.parametrize("field", TEXT_FIELDS)
def test_null_is_not_text(field: str) -> None:
    assert faults(**{field: None}) == [(field, "wrong_type")]


@pytest.mark.parametrize("field", [*NULLABLE_TEXT_FIELDS, "on_disconnect", "max_tokens", "options"])
def test_null_leaves_a_choice_open(field: str) -> None:
    assert brief(**{field: None}) == brief()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_tokens", "5"),
        ("max_tokens", 5.0),
        ("max_tokens", True),
        ("length", 300.0),
        ("length", True),
        ("length", None),
        ("on_disconnect", True),
        ("on_disconnect", []),
        ("options", []),
        ("options", "{}"),
        ("options.blocking", 1),
        ("options.tokens", "5"),
        ("options.tokens", 5.0),
        ("options.interval", "0.1"),
        ("options.interval", None),
    ],
)
def test_numbers_and_objects_are_not_made_from_other_types(field: str, value: object) -> None:
    name, _dot, member = field.partition(".")
    values = {name: {member: value} if member else value}
    assert faults(provider="scripted", **values) == [(field, "wrong_type")]


# --- Unknown fields, many faults -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["__proto__", "constructor", "__class__", "characters", "userId", "", "TOPIC"]
)
def test_unknown_fields(name: str) -> None:
    assert faults(**{name: "x"}) == [(name, "unknown_field")]


def test_names_of_unknown_fields_are_repeated_in_part_and_clean() -> None:
    assert faults(**{LONE_SURROGATE + "x" * 100_000: 1}) == [("\ufffd" + "x" * 63, "unknown_field")]


@pytest.mark.parametrize("name", ["__proto__", "x" * 100_000, LONE_SURROGATE, "a - at `$.tokens`"])
def test_unknown_options(name: str) -> None:
    values = {"provider": "scripted", "options": {"tokens": 5, name: 1}}
    assert faults(**values) == [("options", "unknown_field")]
    assert len(sentence(**values)) < 100


def test_all_faults_are_told_at_once() -> None:
    problem = refusal({"topic": " ", "tone": 1, "max_tokens": 0, "language": "fr", "colour": "red"})
    assert (problem.status, problem.code) == (422, "validation_failed")
    assert {(fault.field, fault.code) for fault in problem.fields} == {
        ("colour", "unknown_field"),
        ("user_id", "missing_field"),
        ("topic", "blank"),
        ("tone", "wrong_type"),
        ("language", "not_a_choice"),
        ("max_tokens", "out_of_range"),
    }
    assert len(problem.fields) == 6
    assert all(f"{fault.field}: {fault.message}" in problem.detail for fault in problem.fields)


def test_faults_of_one_sort_give_the_problem_its_code() -> None:
    assert refusal({"user_id": "u1", "topic": "tea", "a": 1, "b": 2}).code == "unknown_field"


def test_very_many_faults_are_not_all_told() -> None:
    problem = refusal({"user_id": "u1", "topic": "tea"} | {f"k{number}": 1 for number in range(19_000)})
    assert [fault.field for fault in problem.fields] == [f"k{number}" for number in range(MAX_FAULTS)]
    assert (problem.code, problem.members) == ("unknown_field", {"more_errors": True})
    assert problem.detail.endswith(" There are more faults.")
    assert len(problem.response().content) < 5_000


def test_no_more_faults_are_looked_for_than_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[FieldError] = []

    def counted(within: str, name: str) -> FieldError:
        made.append(FieldError(within + name, "unknown_field", ""))
        return made[-1]

    monkeypatch.setattr(validation, "unknown_field", counted)
    refusal({f"k{number}": 1 for number in range(1_000)})
    assert len(made) == MAX_FAULTS + 1


def test_as_many_faults_as_are_told_are_all() -> None:
    problem = refusal({"user_id": "u1", "topic": "tea"} | {f"k{number}": 1 for number in range(MAX_FAULTS)})
    assert len(problem.fields) == MAX_FAULTS
    assert "more_errors" not in problem.document
    assert "more" not in problem.detail


def test_a_very_long_name_is_cut() -> None:
    (fault,) = refusal({"user_id": "u1", "topic": "tea", LONE_SURROGATE + "k" * 900_000: 1}).fields
    assert fault.field == "\ufffd" + "k" * 63


# --- Length, numbers -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("length", "chinese", "english"),
    [
        ("short", 150, 350),
        ("短", 150, 350),
        ("medium", 400, 900),
        ("中等", 400, 900),
        ("long", 1_000, 2_200),
        ("长", 1_000, 2_200),
        (20, 20, 20),
        (20_000, 20_000, 20_000),
    ],
)
def test_lengths(length: object, chinese: int, english: int) -> None:
    assert brief(length=length, language="zh").characters == chinese
    assert brief(length=length, language="en").characters == english


@pytest.mark.parametrize("length", ["300", "３００", "三百", "", "Short", "short ", "長", "300字"])
def test_other_words_are_no_length(length: str) -> None:
    assert faults(length=length) == [("length", "not_a_choice")]


@pytest.mark.parametrize(
    ("field", "low", "high"),
    [("length", 20, 20_000), ("max_tokens", 1, 32_768), ("on_disconnect", 0, 86_400)],
)
def test_numbers_have_bounds(field: str, low: int, high: int) -> None:
    assert getattr(brief(**{field: low}), field) == low
    assert getattr(brief(**{field: high}), field) == high
    for value in (low - 1, high + 1, -(2**63), 2**64):
        assert faults(**{field: value}) == [(field, "out_of_range")]
    assert sentence(**{field: low - 1}) == f"Expected a number from {low} to {high}."


@pytest.mark.parametrize(
    ("field", "limit"), [("user_id", 255), ("topic", 20_000), ("tone", 2_000), ("category", 2_000)]
)
def test_texts_have_bounds(field: str, limit: int) -> None:
    assert getattr(brief(**{field: "长" * limit}), field) == "长" * limit
    assert faults(**{field: "长" * (limit + 1)}) == [(field, "too_long")]


# --- Characters ----------------------------------------------------------------------------------------


def test_nul_leaves_the_text() -> None:
    made = brief(topic="te\x00a", requirements="\x00", provider="scripted", options={"text": "a\x00b"})
    assert (made.topic, made.requirements) == ("tea", "")
    assert made.options is not None
    assert made.options.text == "ab"


def test_lone_surrogates_become_replacement_characters() -> None:
    made = brief(
        topic=f"tea {LONE_SURROGATE}", tone="\ude00x", provider="scripted", options={"text": LONE_SURROGATE}
    )
    assert (made.topic, made.tone) == ("tea \ufffd", "\ufffdx")
    assert made.options is not None
    assert made.options.text == "\ufffd"


def test_surrogate_pairs_become_their_character() -> None:
    assert brief(topic="\ud83c\udf75").topic == "🍵"


@pytest.mark.parametrize("user_id", ["u\x00", "u\n", "\x7f", "u\x85", LONE_SURROGATE, "\x1b[31m"])
def test_an_id_with_control_characters_is_refused(user_id: str) -> None:
    problem = refusal({"user_id": user_id, "topic": "tea"})
    assert (problem.status, problem.code) == (400, "invalid_id")
    assert [(fault.field, fault.code) for fault in problem.fields] == [("user_id", "invalid_id")]


@pytest.mark.parametrize("user_id", ["用户-1", "a b", "../../x", "a\u200bb", "🍵"])
def test_an_id_may_be_any_other_text(user_id: str) -> None:
    assert brief(user_id=user_id).user_id == user_id


# --- Provider, model, options --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "provider", ["nobody", "Offline", "http://127.0.0.1/", "contentgen.providers.offline"]
)
def test_an_unknown_provider(provider: str) -> None:
    assert faults(provider=provider) == [("provider", "not_a_choice")]


def test_the_scripted_provider_must_be_switched_on(settings: Settings) -> None:
    assert brief(provider="scripted").provider == "scripted"
    settings.ALLOW_SCRIPTED_PROVIDER = False
    assert faults(provider="scripted") == [("provider", "not_a_choice")]


def test_the_provider_of_the_settings_is_the_default(settings: Settings) -> None:
    settings.CONTENT_PROVIDER = "scripted"
    assert brief().provider == "scripted"
    assert brief(provider="offline").provider == "offline"


def test_options_are_for_the_scripted_provider_only() -> None:
    made = brief(provider="scripted", options={"tokens": 5, "interval": 0})
    assert made.options is not None
    assert (made.options.tokens, made.options.interval) == (5, 0)
    assert faults(options={"tokens": 5}) == [("options", "unknown_field")]
    assert faults(options={}) == [("options", "unknown_field")]
    assert faults(provider="scripted", options={"tokens": -1}) == [("options.tokens", "out_of_range")]


def test_models() -> None:
    assert brief(provider="scripted", model="scripted").model == "scripted"
    for model in ("nobody", "org/name:7b", "x" * 128):
        problem = refusal({"user_id": "u1", "topic": "tea", "model": model})
        assert (problem.status, problem.code) == (404, "unknown_model")


@pytest.mark.parametrize("model", ["../../x", "a/../../x", "/etc/passwd", "", "a b", "模型", "x" * 129])
def test_what_is_no_models_name(model: str) -> None:
    assert faults(model=model) == [("model", "not_a_choice")]


# --- Choices -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "language"),
    [
        ({"topic": "周末探店"}, "zh"),
        ({"topic": "tea in Lisbon"}, "en"),
        ({"topic": "tea", "requirements": "请写得轻松一点"}, "zh"),
        ({"topic": "周末探店", "language": "en"}, "en"),
        ({"topic": "tea", "language": "zh"}, "zh"),
        ({"topic": "tea", "language": None}, "en"),
    ],
)
def test_the_language_is_detected_unless_named(values: dict[str, Any], language: str) -> None:
    assert brief(**values).language == language


@pytest.mark.parametrize("language", ["fr", "ZH", "zh-CN", "", "object contains unknown field"])
def test_other_languages(language: str) -> None:
    assert faults(language=language) == [("language", "not_a_choice")]


@pytest.mark.parametrize("value", ["cancel", "continue", 0, 0.5, 30, 86_400])
def test_forms_of_on_disconnect(value: object) -> None:
    assert brief(on_disconnect=value).on_disconnect == value


@pytest.mark.parametrize("value", ["stop", "5", "", "Cancel", "x - at `$.tokens`"])
def test_other_words_for_on_disconnect(value: str) -> None:
    assert faults(on_disconnect=value) == [("on_disconnect", "not_a_choice")]


@pytest.mark.parametrize("value", [-0.5, 86_400.5, float("inf"), float("nan")])
def test_graces_out_of_range(value: float) -> None:
    assert faults(on_disconnect=value) == [("on_disconnect", "out_of_range")]


@pytest.mark.parametrize("priority", ["interactive", "normal", "batch"])
def test_priorities(priority: str) -> None:
    assert brief(priority=priority).priority == priority


@pytest.mark.parametrize("priority", ["high", "Normal", "", "0"])
def test_other_priorities(priority: str) -> None:
    assert faults(priority=priority) == [("priority", "not_a_choice")]


# --- Sentences -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "english", "chinese"),
    [
        ({"tone": 5}, "Expected text, got a number.", "类型错误，应为：文本；实际为：数字。"),
        ({"tone": None}, "Expected text, got null.", "类型错误，应为：文本；实际为：null。"),
        (
            {"length": 20.5},
            "Expected text or a whole number, got a decimal number.",
            "类型错误，应为：文本或整数；实际为：小数。",
        ),
        ({"tone": "x" * 2_001}, "At most 2000 characters.", "最多 2000 个字符。"),
        ({"max_tokens": 0}, "Expected a number from 1 to 32768.", "数值应在 1 到 32768 之间。"),
        ({"options": {"fail_after": -1}}, "Expected a number of at least 0.", "数值不能小于 0。"),
        ({"options": {"speed": 1}}, "There is no such field: speed.", "没有该字段：speed。"),
        (
            {"on_disconnect": "x"},
            "Choose one of: cancel, continue, 0–86400.",
            "可选值：cancel, continue, 0–86400。",
        ),
        (
            {"length": "300"},
            "Choose one of: short, medium, long, 短, 中等, 长, 20–20000.",
            "可选值：short, medium, long, 短, 中等, 长, 20–20000。",
        ),
        ({"topic": ""}, "This field must not be blank.", "这个字段不能为空白。"),
    ],
)
def test_faults_are_told_in_the_readers_language(values: dict[str, Any], english: str, chinese: str) -> None:
    assert sentence(**values) == english
    with translation.override("zh-hans"):
        assert sentence(**values) == chinese


# --- Anything ------------------------------------------------------------------------------------------

any_text = st.text(st.characters(exclude_categories=()), max_size=20)
any_json = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats() | any_text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(any_text, inner, max_size=3),
    max_leaves=8,
)
field_names = st.sampled_from(Brief.__struct_fields__) | any_text
option_names = st.sampled_from(["tokens", "interval", "text", "blocking", "fail_after"]) | any_text


@given(
    st.dictionaries(field_names, any_json | st.dictionaries(option_names, any_json, max_size=3), max_size=6)
)
def test_any_object_is_a_brief_or_a_problem(values: dict[str, Any]) -> None:
    try:
        parse(values)
    except Problem as problem:
        problem.response()
