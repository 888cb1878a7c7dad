"""What a request to the registered model may say, wherever it is served: by MLflow (pyfunc.py) or by troupe.serving."""

# MLflow reads the names, types and defaults of a request's params from this example; it has no "unset".
EXAMPLE_PROMPTS = ["The ", "Once upon"]
EXAMPLE_PARAMS = {"max_new_tokens": 8, "temperature": 0.8, "top_k": 50, "top_p": 0.95, "min_p": 0.0, "seed": -1}
FRESH = -1  # the seed that stands for a new one in each request
MOST_TOKENS = 4096  # of one request: it holds a worker until it is done
