"""Which category and tone a free text asks for, in either language."""

from __future__ import annotations

import re
from collections.abc import Mapping

_CATEGORIES = {
    "food": (
        "food, cafe, café, coffee, restaurant, brunch, dessert, recipe, bakery, tea, noodle, "
        "dinner, lunch, breakfast, cooking, ramen, 美食, 探店, 咖啡, 餐厅, 甜品, 小吃, "
        "火锅, 奶茶, 早餐, 烘焙, 菜谱, 好吃, 料理, 面馆"
    ),
    "travel": (
        "travel, trip, journey, hiking, hotel, holiday, vacation, itinerary, city walk, tour, "
        "旅行, 旅游, 游记, 出游, 自驾, 攻略, 酒店, 民宿, 徒步, 露营, 景点, 度假"
    ),
    "beauty": (
        "beauty, skincare, makeup, make-up, lipstick, serum, sunscreen, cosmetic, perfume, "
        "美妆, 护肤, 化妆, 口红, 面膜, 防晒, 精华, 粉底, 香水, 敏感肌, 卸妆"
    ),
    "fashion": (
        "fashion, outfit, style, wardrobe, dress, sneaker, jacket, clothes, clothing, "
        "穿搭, 时尚, 服装, 服饰, 衣橱, 外套, 裙, 球鞋, 显瘦, 大衣"
    ),
    "home": (
        "home, living room, interior, furniture, decor, kitchen, bedroom, storage, gardening, "
        "家居, 家装, 装修, 收纳, 客厅, 卧室, 厨房, 软装, 租房, 家具, 绿植"
    ),
    "pets": (
        "pet, dog, cat, puppy, kitten, rabbit, hamster, parrot, "
        "宠物, 猫, 狗, 铲屎官, 毛孩子, 仓鼠, 兔子, 萌宠"
    ),
    "tech": (
        "tech, technology, gadget, phone, laptop, keyboard, headphone, camera, software, app, "
        "digital, tablet, smartwatch, 数码, 科技, 手机, 电脑, 耳机, 键盘, 相机, 平板, "
        "软件, 智能, 显示器"
    ),
    "fitness": (
        "fitness, workout, gym, yoga, running, health, healthy, exercise, marathon, pilates, "
        "健身, 运动, 跑步, 瑜伽, 减脂, 减肥, 增肌, 健康, 普拉提, 训练"
    ),
    "parenting": (
        "parenting, parent, baby, babies, kid, child, children, toddler, family, mum, mom, "
        "亲子, 育儿, 母婴, 宝宝, 孩子, 带娃, 遛娃, 宝妈, 幼儿, 家庭教育"
    ),
    "books": (
        "book, reading, learning, study, novel, education, language learning, exam, course, "
        "读书, 学习, 阅读, 书单, 书评, 考研, 英语, 备考, 教育, 笔记, 小说"
    ),
    "work": (
        "work, workplace, business, career, office, job, meeting, management, startup, interview, "
        "职场, 商业, 工作, 办公, 面试, 创业, 管理, 简历, 会议, 汇报, 升职"
    ),
}

_TONES = {
    "lively": (
        "lively, cute, playful, cheerful, fun, energetic, casual, bubbly, enthusiastic, "
        "活泼, 可爱, 俏皮, 元气, 轻松, 欢快, 热情"
    ),
    "professional": (
        "professional, formal, serious, expert, business, objective, authoritative, informative, "
        "专业, 正式, 严谨, 权威, 客观, 商务"
    ),
    "warm": (
        "warm, heartfelt, healing, gentle, friendly, comforting, emotional, sincere, soothing, "
        "温暖, 治愈, 温柔, 暖心, 走心, 感性, 亲切, 真诚"
    ),
    "humorous": (
        "humorous, humor, humour, funny, witty, comic, sarcastic, ironic, "
        "幽默, 搞笑, 风趣, 诙谐, 吐槽, 沙雕, 段子"
    ),
    "literary": ("literary, elegant, poetic, lyrical, artistic, refined, 文艺, 优雅, 诗意, 唯美, 文学, 抒情"),
    "persuasive": (
        "persuasive, marketing, promotional, sales, advertising, convincing, recommendation, "
        "种草, 营销, 安利, 推广, 带货, 推销, 广告, 说服, 宣传"
    ),
}

CATEGORIES: Mapping[str, tuple[str, ...]] = {
    key: tuple(words.split(", ")) for key, words in _CATEGORIES.items()
}
TONES: Mapping[str, tuple[str, ...]] = {key: tuple(words.split(", ")) for key, words in _TONES.items()}


def recognise(text: str, table: Mapping[str, tuple[str, ...]]) -> str | None:
    """The key of ``table`` whose keywords cover most of ``text``; ``None`` if there is none.

    Chinese keywords match anywhere, English ones as whole words with an optional plural ending.
    """
    folded = text.casefold()
    scores = {key: sum(len(word) for word in words if _occurs(word, folded)) for key, words in table.items()}
    best = max(scores, key=scores.__getitem__)
    return best if scores[best] else None


def _occurs(word: str, folded: str) -> bool:
    if word not in folded:
        return False
    if not word.isascii():
        return True
    return re.search(rf"(?<![a-z0-9]){re.escape(word)}(?:e?s)?(?![a-z0-9])", folded) is not None
