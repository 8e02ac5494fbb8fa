"""Short programs by heart: what the offline provider writes when somebody asks for code. The first whose
words are in the prompt is written, else a frame for what was asked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Sketch:
    """A program, and the words by which it is asked for (lower case, English and Chinese)."""

    words: tuple[str, ...]
    source: str


SKETCHES: Final = (
    Sketch(
        ("plot", "chart", "graph", "sine", "图表", "画图", "绘图", "曲线", "折线"),
        """import math

import matplotlib.pyplot as plt

xs = [step / 20 for step in range(200)]
plt.figure(figsize=(7, 3))
plt.plot(xs, [math.sin(x) for x in xs], label="sin(x)")
plt.plot(xs, [math.cos(x) for x in xs], label="cos(x)")
plt.legend()
plt.grid(alpha=0.3)
plt.show()
""",
    ),
    Sketch(
        ("table", "dataframe", "pandas", "表格", "数据框"),
        """import pandas as pd

table = pd.DataFrame(
    {"city": ["北京", "上海", "广州"], "visitors": [120, 98, 143], "rating": [4.6, 4.4, 4.7]}
)
table["share"] = (table["visitors"] / table["visitors"].sum()).round(3)
table.sort_values("visitors", ascending=False)
""",
    ),
    Sketch(
        ("prime", "素数", "质数"),
        """def primes(limit):
    \"\"\"All primes below `limit`, by the sieve of Eratosthenes.\"\"\"
    composite = bytearray(limit)
    for number in range(2, limit):
        if not composite[number]:
            yield number
            composite[number * number :: number] = b"\\x01" * len(composite[number * number :: number])


print(*primes(100))
""",
    ),
    Sketch(
        ("fibonacci", "斐波那契"),
        """def fibonacci(count):
    \"\"\"The first `count` Fibonacci numbers.\"\"\"
    a, b = 0, 1
    for _ in range(count):
        yield a
        a, b = b, a + b


print(*fibonacci(20))
""",
    ),
    Sketch(
        ("sort", "排序"),
        """words = ["pear", "apple", "fig", "banana", "kiwi"]
for word in sorted(words, key=lambda word: (len(word), word)):
    print(f"{len(word):>2}  {word}")
""",
    ),
    Sketch(
        ("random", "simulat", "dice", "随机", "模拟", "骰子"),
        """import random
from collections import Counter

throws = Counter(random.randint(1, 6) + random.randint(1, 6) for _ in range(10_000))
for total in range(2, 13):
    print(f"{total:>2}  {'█' * (throws[total] // 50)}  {throws[total]}")
""",
    ),
    Sketch(
        ("json",),
        """import json

text = '{"name": "Sluice", "tags": ["stream", "resume"], "stars": 5}'
record = json.loads(text)
print(json.dumps(record, indent=2, ensure_ascii=False))
""",
    ),
    Sketch(
        ("count", "loop", "progress", "print", "循环", "进度", "打印", "计数"),
        """import time

for step in range(1, 11):
    print(f"step {step} of 10")
    time.sleep(0.3)
""",
    ),
)

_FRAME: Final = {
    "en": '''# {prompt}


def main():
    """What was asked for goes here: this server writes without a model, from a few sketches."""
    raise NotImplementedError


main()
''',
    "zh": '''# {prompt}


def main():
    """在这里实现：本服务器没有连接模型，只会写几种示例代码。"""
    raise NotImplementedError


main()
''',
}


def sketch(prompt: str, language: str) -> str:
    """A program for `prompt`, with the prompt as its first comment."""
    wanted = prompt.casefold()
    first_line = " ".join(prompt.split())[:100]
    for each in SKETCHES:
        if any(word in wanted for word in each.words):
            return f"# {first_line}\n{each.source}"
    return _FRAME.get(language, _FRAME["en"]).format(prompt=first_line)
