"""The web page: click a picture, read metres. Only page.py and server.py import gradio (the extra `app`)."""
