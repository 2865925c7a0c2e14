"""The stages, one file each: data, teach, label, student, distil, evaluate. `pipeline.py` puts them in order."""
