"""The int8 model as a file of the runtime that will run it, and the proof that its answers are the same."""
