from tests.tiny_backbone import backbone, named_tiny, tiny_dir, untouched  # noqa: F401  # fixtures
