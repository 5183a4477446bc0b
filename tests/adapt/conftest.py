from tests.tiny_backbone import backbone, tiny_dir, untouched  # noqa: F401  # fixtures
