"""What type checkers must be able to tell of the front door; checked, never run."""

from __future__ import annotations

from typing import assert_type

import resilient

assert_type(resilient.__version__, str)
