from tests.tiny_backbone import backbone, tiny_dir  # noqa: F401  # fixtures
