"""The house stays in order: `structure.py` measures the source tree, and what is measured here may only get better.

When a figure has improved, its limit below follows: `python -m tests.contracts.structure --places` says the figures and
every place that counts. A name in one of the sets is a known exception; none may be added, and one that is gone leaves.
"""

import pytest

from .structure import (
    Tree,
    at_the_root,
    awkward_beginnings,
    class_checks,
    long_bodies,
    long_files,
    median_words,
    private_accesses,
    with_many_parameters,
    without_args,
)
from .test_imports import PACKAGE, read

# Numbers that may only fall; in brackets what they should come to.
MODULES_AT_THE_ROOT = 14
CLASS_CHECKS = 15  # 0.8 per 1,000 lines of source
PRIVATE_ACCESSES = 0
WITHOUT_ARGS = 0

# Numbers that may only rise.
MEDIAN_WORDS = 30

LONG_FILES: set[str] = set()
LONG_BODIES: set[str] = set()
AWKWARD_BEGINNINGS: set[str] = set()


@pytest.fixture(scope="module")
def tree() -> Tree:
    return Tree(read(PACKAGE))


def told(places: list[str]) -> str:
    return "\n".join(["", *places])


def test_few_modules_stand_at_the_root(tree):
    assert len(at_the_root(tree)) <= MODULES_AT_THE_ROOT, told(at_the_root(tree))


def test_objects_answer_themselves_instead_of_being_asked_for_their_class(tree):
    assert len(class_checks(tree)) <= CLASS_CHECKS, told(class_checks(tree))


def test_private_members_of_others_are_left_alone(tree):
    assert len(private_accesses(tree)) <= PRIVATE_ACCESSES, told(private_accesses(tree))


def test_no_file_and_no_function_is_long(tree):
    assert set(long_files(tree)) == LONG_FILES
    assert set(long_bodies(tree)) == LONG_BODIES


def test_many_parameters_are_explained(tree):
    assert len(without_args(tree)) <= WITHOUT_ARGS, told(without_args(tree))


def test_docstrings_are_no_shorter_and_begin_with_their_subject(tree):
    assert median_words(tree) >= MEDIAN_WORDS
    assert set(awkward_beginnings(tree)) == AWKWARD_BEGINNINGS


# -- what each of them sees, on packages made up for it ------------------------------------------------------------

OWN = {
    "upweight.__init__": "from .a import Own",
    "upweight.a": "import torch\nclass Own:\n    def __init__(self):\n        self._hidden = 1\nclass Other(Own): ...",
}


def planted(text: str, **more: str) -> Tree:
    """A package with a class of ours in `a` and `text` in `b`."""
    return Tree({**OWN, "upweight.b": text, **more})


@pytest.mark.parametrize(
    "question",
    [
        "isinstance(x, Own)",
        "isinstance(x, a.Own)",
        "isinstance(x, Again)",
        "isinstance(x, (int, Own, a.Other))",
        "isinstance(x, int | Own)",
        "isinstance(x, KINDS)",
        "issubclass(x, Own)",
        "type(x) is Own",
        "type(x) in (int, Own)",
        "not isinstance(x.y, Own)",
    ],
)
def test_a_question_for_a_class_of_ours_is_seen_once(question):
    head = "from . import a\nfrom .a import Own\nfrom . import Own as Again\nKINDS = (int, Own)\n\n"
    (place,) = class_checks(planted(f"{head}def f(x):\n    return {question}"))
    assert place.startswith("upweight.b:7 Own")


def test_a_match_on_classes_of_ours_is_seen():
    text = "def f(x):\n    from .a import Own\n    match x:\n        case Own():\n            pass"
    assert class_checks(planted(text)) == ["upweight.b:4 Own"]


@pytest.mark.parametrize(
    "question",
    [
        "isinstance(x, torch.Tensor)",
        "isinstance(x, (int, str))",
        "isinstance(x, torch.nn.Own)",
        "type(x).__name__",
    ],
)
def test_a_question_for_a_class_of_others_is_none(question):
    assert class_checks(planted(f"import torch\nfrom .a import Own\nz = {question}")) == []


@pytest.mark.parametrize(
    "text",
    [
        "y = x._hidden",
        "x.z._hidden = 1",
        "y = f(x)._hidden",
        "y = getattr(x, '_hidden')",
        "class C:\n    def f(self): return self.other._hidden",
    ],
)
def test_a_private_member_of_another_object_is_seen(text):
    (place,) = private_accesses(planted(text))
    assert place.startswith("upweight.b:")
    assert place.endswith("._hidden")


def test_a_private_function_of_another_module_is_seen():
    tree = planted("from .c import _help", **{"upweight.c": "def _help(): ..."})
    assert private_accesses(tree) == ["upweight.b:1 c._help"]


@pytest.mark.parametrize(
    "line", ["self._hidden", "cls._hidden", "super()._hidden", "x._of_torch", "x.__dict__", "_hidden"]
)
def test_what_is_ones_own_or_not_ours_is_no_access(line):
    assert private_accesses(planted(f"class C:\n    def f(self, x):\n        {line}")) == []


def test_a_long_file_and_a_long_body_are_seen():
    body = "\n".join(["    x = 1"] * 60)
    tree = planted(f"def f():\n    '''Told.\n\n    More.\n    '''\n{body}\n" + "\n" * 334)
    assert long_files(tree) == long_bodies(tree) == {}
    tree = planted(f"def f():\n{body}\n    x = 1\n" + "\n" * 339)
    assert long_files(tree) == {"upweight.b": 401}
    assert long_bodies(tree) == {"upweight.b.f": 61}


def test_modules_at_the_root_are_counted():
    tree = planted("", **{"upweight.c.__init__": "", "upweight.c.d": ""})
    assert at_the_root(tree) == ["upweight.__init__", "upweight.a", "upweight.b"]


def test_functions_without_an_args_block_are_seen():
    text = '''
def f(a, b, *, c): "Three."
def g(a, b): "Two."
def _h(a, b, c): "Private."
def silent(a, b, c): ...
def told(a, b, c):
    """Three.

    Args:
        a: One.
    """
@app.command()
def command(a, b, c): "For the terminal."
class C:
    def m(self, a, b, *c): "Three."
    def n(self, a, b): "Two."
    @staticmethod
    def s(a, b, c): "Three."
class _D:
    def m(self, a, b, c): "Private."
'''
    tree = planted(text)
    assert without_args(tree) == ["upweight.b.f", "upweight.b.C.m", "upweight.b.C.s"]
    assert len(with_many_parameters(tree)) == 4
    assert median_words(tree) == 1


@pytest.mark.parametrize(
    "beginning", ["The same, moved.", "Of each row.", "Those asked.", "Its n.", "As `f`.", "As of 1."]
)
def test_a_docstring_without_its_subject_is_seen(beginning):
    assert awkward_beginnings(planted(f"def f():\n    '''{beginning}'''")) == ["upweight.b.f"]
    assert awkward_beginnings(planted(f"'''{beginning}'''")) == ["upweight.b"]
    assert awkward_beginnings(planted(f"def f():\n    '''A row. {beginning}'''")) == []
