"""Which units to keep, by what the layers that read them can still give. Start at `products.py`."""
