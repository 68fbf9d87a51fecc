"""From files to tensors: readers, manifest, radiographs, preprocessing, augmentation."""
