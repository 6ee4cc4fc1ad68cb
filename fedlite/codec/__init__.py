"""`python -m fedlite.codec`: what update codecs there are, and what each does to a model's update, measured here."""
