"""The ground floor: errors, configuration base, fingerprints, publishing, console, the `Generator` protocol."""
