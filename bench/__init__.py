"""devc's own benchmarks: ratios against hand-written C, Python and bare loops (`devc bench`)."""
