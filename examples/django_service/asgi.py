"""What uvicorn serves."""

import os

from django.core.asgi import get_asgi_application

from resilient.integrations.django import install

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "settings")
application = install(get_asgi_application(), max_deadline=10)
