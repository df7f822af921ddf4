"""Work-directory files: atomic writes, record segments, JSON."""
