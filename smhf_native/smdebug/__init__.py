"""The names of ``smdebug`` that notebooks import, over smhf_native.profiler."""
