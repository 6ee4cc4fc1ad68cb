"""Published update codecs, each as its paper describes it, and what compares them with ours; see ../codecs.py."""
