"""Turn files and text into arrays: pictures, prompts, and the processor that joins them."""
