"""Tests of many minutes that are run by hand: `PAV_CAMPAIGNS=1 pytest -m slow FILES`."""

import os

import pytest

REASON = "takes many minutes; set PAV_CAMPAIGNS=1"
IS_REQUESTED = os.environ.get("PAV_CAMPAIGNS") == "1"
by_hand = pytest.mark.skipif(not IS_REQUESTED, reason=REASON)
