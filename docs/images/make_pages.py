"""The images of pages: `analyze.png`, `report.png` and `serve.png`, all on generated cells. Needs Chromium and playwright.

Run: .venv/bin/python docs/images/make_pages.py runs/ten ten
"""
