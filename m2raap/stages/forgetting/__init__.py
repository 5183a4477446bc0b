"""Clips leave every folder that knows them, and what stays is signed again."""
