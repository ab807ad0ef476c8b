"""The specification's examples: a batch from preprocess, verbatim, and the features of an artifact."""

EXAMPLE = """
{
  "batch_id": "batch_20251017_105804",
  "artifacts": [
    {
      "photo_id": "48f6cf1e6e10e5367e229aabc3bffcf1c3bb3adac74365665fa9d6d1d1ed0541",
      "original_uri": "./data/input/992DDF60-302C-4AB3-A794-EE9D0DDC56AA.jpg",
      "ranking_uri": "./data/rankingInput/48f6cf1e6e10e5367e229aabc3bffcf1c3bb3adac74365665fa9d6d1d1ed0541.jpg",
      "std_uri": "./data/rankingInput/48f6cf1e6e10e5367e229aabc3bffcf1c3bb3adac74365665fa9d6d1d1ed0541_1024.jpg",
      "exif": {
        "camera": "Apple iPhone 11 Pro Max",
        "lens": "Unknown",
        "iso": 64,
        "aperture": "f/1.8",
        "shutter_speed": "1/60",
        "focal_length": "4mm",
        "datetime": "2024:12:25 11:25:57",
        "gps": null
      },
      "format": ".jpg",
      "processing_metadata": {
        "original_size": [3840, 2160],
        "standardized_size": [2048, 1152],
        "processing_method": "quality_preserved"
      }
    }
  ]
}
"""

OUTPUT_FEATURES = {
    "tech": {
        "sharpness": 1.0,
        "exposure": 0.7250478958473853,
        "noise": 0.09551166822581503,
        "clip_iqa": 0.8234567890123456,
        "brisque": 0.6789012345678901,
    },
    "clip_labels": [
        {"label": "wide shot", "confidence": 0.956, "cosine_score": 0.845},
        {"label": "colorful", "confidence": 0.823, "cosine_score": 0.781},
        {"label": "close-up", "confidence": 0.712, "cosine_score": 0.658},
        {"label": "panorama", "confidence": 0.634, "cosine_score": 0.542},
        {"label": "indoor", "confidence": 0.521, "cosine_score": 0.421},
    ],
}
