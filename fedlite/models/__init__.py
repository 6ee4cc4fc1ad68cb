"""One small file per model family; build(name, **options) makes any of them."""
