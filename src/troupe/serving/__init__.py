"""The models of the registry over HTTP: OpenAI's completions, MLflow's invocations, figures for Prometheus, a page.

app.py            the routes; requests and their answers are described in messages.py
guard.py          who may ask: hosts, origins, the token, the size of a request
models.py         which models can be asked for, and the watch over the registry
scheduler.py      texts that wait and texts that are written; every text is an answer.Answer
"""
