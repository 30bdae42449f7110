"""The digest of Python's documentation."""

from pydoc_data import topics

from palimpsest.tasks.documentation import digest


def test_another_text_has_another_digest(monkeypatch):
    before = digest()
    monkeypatch.setitem(topics.topics, "assert", "Something else.")
    assert digest() != before
