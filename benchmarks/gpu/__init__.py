"""Everything that is to be known of a GPU, in one sitting: `python -m benchmarks.gpu`."""
