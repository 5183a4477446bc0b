"""Requests to language models, checks of their answers, and a cache, so that no answer is paid twice."""
