"""What labeling writes beside the run itself: formats, merged files, quality control."""
