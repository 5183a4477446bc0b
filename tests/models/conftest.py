from tests.tiny_backbone import backbone, named_tiny, tiny_dir  # noqa: F401  # fixtures
