"""Files and text to arrays: pictures, prompts, and the processor that joins them."""
