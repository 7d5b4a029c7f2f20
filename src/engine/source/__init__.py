"""Rows in: files, arrays and generators behind one `Source`, cut into pieces that any rank can read."""
