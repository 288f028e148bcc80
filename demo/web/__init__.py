"""The web page of `demo/app.py`.

    limits.py      how much one visitor may ask for
    uploads.py     files from strangers -> pictures, masks, clips; or one sentence why not
    models.py      the two predictors
    running.py     whose clip is under way, for Cancel
    recent.py      the last results, for whoever wants them as files
    guard.py       what a visitor reads when something goes wrong
    viewer.py      pictures with names under the pointer (assets/viewer.js)
    painter.py     a canvas to paint masks on (assets/painter.js)
    clips.py       a clip segmented frame by frame, with progress
    tab_*.py       one tab each: its controls, and what they do
    page.py        all of it together
"""
