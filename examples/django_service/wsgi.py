"""What gunicorn serves."""

import os

from django.core.wsgi import get_wsgi_application

from resilient.integrations.django import install

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "settings")
application = install(get_wsgi_application(), max_deadline=10)
