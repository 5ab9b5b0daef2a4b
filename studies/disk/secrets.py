"""What of a text or a URL is a secret: never written down, and shown as stars."""

from __future__ import annotations

import re

_NAMES = (
    r"[\w-]*(?:pass|pwd|secret|token|credential|signature|api_?key|access_?key)[\w-]*|(?:[\w-]*[_-])?(?:key|sig|auth)"
)
SECRET = re.compile(_NAMES, re.IGNORECASE)
"""Names of settings whose values are secrets, whole."""
_LOGIN = re.compile(r"(://[^/\s:@'\"]*:)[^\s'\"]*@")
_VALUE = re.compile(rf"((?<![\w-])(?:{_NAMES})[\"']?\s*[=:]\s*[\"']?)[^&\s\"',;}}]+", re.IGNORECASE)


def hidden(text: str) -> str:
    """The text with stars for passwords and tokens in URLs and settings.

    >>> hidden("http://ann:pa/ss@host/x?token=abc&page=2")
    'http://ann:***@host/x?token=***&page=2'
    """
    return _VALUE.sub(r"\1***", _LOGIN.sub(r"\1***@", text))
