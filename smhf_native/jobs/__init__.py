"""Local training jobs: records, launch, supervision, and the script's environment."""
