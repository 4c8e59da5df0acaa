"""Paired, interleaved timings of one model under several policies."""
