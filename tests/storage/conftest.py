"""Emulated object stores."""

from tests.object_stores import gcs_store, s3_store, store  # noqa: F401  (fixtures)
