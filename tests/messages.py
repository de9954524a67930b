"""The text of the error that a call raises, for comparing it in full."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest


def message_of(kind: type[Exception], call: Callable[..., Any], *args: Any, **kwargs: Any) -> str:
    """Return the text of the error that `call` raises, which has to be of exactly the class `kind`."""
    with pytest.raises(kind) as caught:
        call(*args, **kwargs)
    assert type(caught.value) is kind
    return str(caught.value)
