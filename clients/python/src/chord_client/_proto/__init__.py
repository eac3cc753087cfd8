"""The messages of chord.v1, generated at build time (build_protos.py). Private: the public types of
this package are those of chord_client itself."""
