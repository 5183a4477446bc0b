"""Asking language models: requests that are data, answers that are checked, a cache that nothing is paid twice for."""
