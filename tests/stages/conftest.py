from tests.tiny_backbone import tiny_dir  # noqa: F401  # a fixture
