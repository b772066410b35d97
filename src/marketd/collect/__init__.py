"""What keeps data coming in and going where it is kept: source runners and the writers behind the pipeline."""
