"""Tests of many minutes that are run by hand: `PAV_CAMPAIGNS=1 pytest -m slow FILES`."""

import os

import pytest

by_hand = pytest.mark.skipif(
    os.environ.get("PAV_CAMPAIGNS") != "1", reason="takes many minutes; set PAV_CAMPAIGNS=1"
)
