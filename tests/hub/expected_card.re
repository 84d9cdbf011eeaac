---
datasets:
- org/speech
language:
- de
- en
library_name: transformers
license: cc-by-nc-4\.0
metrics:
- f1
- recall
- accuracy
- wer
- cer
pipeline_tag: audio-classification
tags:
- speech-emotion-recognition
- gender-recognition
- speaker-verification
- automatic-speech-recognition
- multi-task
- ser_mtl
widget:
- src: widget/16\.wav
  example_title: 16\.wav
  output:
  - label: (anger|sadness)
    score: [\d.e+-]+
  - label: (anger|sadness)
    score: [\d.e+-]+
- src: widget/17\.wav
  example_title: 17\.wav
  output:
  - label: (anger|sadness)
    score: [\d.e+-]+
  - label: (anger|sadness)
    score: [\d.e+-]+
model-index:
- name: tiny-run
  results:
  - task:
      type: audio-classification
      name: Audio classification
    dataset:
      name: Corpus A, test
      type: org/speech
      split: test
    metrics:
    - type: f1
      value: [\d.e+-]+
      name: Emotion macro-F1
      args:
        average: macro
    - type: recall
      value: [\d.e+-]+
      name: Emotion unweighted average recall
      args:
        average: macro
    - type: accuracy
      value: [\d.e+-]+
      name: Emotion accuracy
    - type: recall
      value: [\d.e+-]+
      name: Gender unweighted average recall
      args:
        average: macro
    - type: accuracy
      value: [\d.e+-]+
      name: Gender accuracy
  - task:
      type: speaker-verification
      name: Speaker verification
    dataset:
      name: Corpus A, test
      type: org/speech
      split: test
    metrics:
    - type: eer
      value: [\d.e+-]+
      name: Speaker equal error rate
    - type: min_dcf
      value: [\d.e+-]+
      name: Speaker minimum detection cost \(target prior \.05\)
  - task:
      type: automatic-speech-recognition
      name: Automatic speech recognition
    dataset:
      name: Corpus A, test
      type: org/speech
      split: test
    metrics:
    - type: wer
      value: [\d.e+-]+
      name: ASR word error rate
    - type: cer
      value: [\d.e+-]+
      name: ASR character error rate
  - task:
      type: audio-classification
      name: Audio classification
    dataset:
      name: validation
      type: org/speech
      split: validation
    metrics:
    - type: f1
      value: [\d.e+-]+
      name: Emotion macro-F1
      args:
        average: macro
    - type: recall
      value: [\d.e+-]+
      name: Emotion unweighted average recall
      args:
        average: macro
    - type: accuracy
      value: [\d.e+-]+
      name: Emotion accuracy
    - type: recall
      value: [\d.e+-]+
      name: Gender unweighted average recall
      args:
        average: macro
    - type: accuracy
      value: [\d.e+-]+
      name: Gender accuracy
  - task:
      type: speaker-verification
      name: Speaker verification
    dataset:
      name: validation
      type: org/speech
      split: validation
    metrics:
    - type: eer
      value: [\d.e+-]+
      name: Speaker equal error rate
    - type: min_dcf
      value: [\d.e+-]+
      name: Speaker minimum detection cost \(target prior \.05\)
  - task:
      type: automatic-speech-recognition
      name: Automatic speech recognition
    dataset:
      name: validation
      type: org/speech
      split: validation
    metrics:
    - type: wer
      value: [\d.e+-]+
      name: ASR word error rate
    - type: cer
      value: [\d.e+-]+
      name: ASR character error rate
---

# tiny-run

From a clip of speech \(16 kHz, mono\) this model predicts, in one pass:

- \*\*Emotion\*\*: anger, sadness, with a probability each\.
- \*\*Gender\*\*: female, male, as the training data names it\.
- \*\*Speaker\*\*: an embedding of 192 numbers and unit length; the dot product of two is the higher, the more alike the voices are\.
- \*\*Transcript\*\*: lower case, without punctuation\.

A wav2vec2 encoder, trained from scratch on all tasks at once; every task weighs its hidden states, and the emotion stream attends to those of the other tasks \(co-attention\)\.

## Use

```bash
pip install "transformers>=5\.17" torch soundfile soxr
```

Emotion:

```python
from transformers import pipeline

classifier = pipeline\("audio-classification", model="path/to/tiny-run", trust_remote_code=True\)
print\(classifier\("clip\.wav"\)\)
```

Gender:

```python
from transformers import pipeline

listener = pipeline\("speech-emotion-mtl", model="path/to/tiny-run", trust_remote_code=True\)
print\(listener\("clip\.wav"\)\["gender"\]\)
```

Verification, whether one person speaks two clips \(1: the same voice; choose the threshold on speech like yours\):

```python
import numpy as np
from transformers import pipeline

listener = pipeline\("speech-emotion-mtl", model="path/to/tiny-run", trust_remote_code=True\)
first, second = listener\(\["a\.wav", "b\.wav"\]\)
print\(np\.dot\(first\["speaker_embedding"\], second\["speaker_embedding"\]\)\)
```

Transcript:

```python
from transformers import pipeline

listener = pipeline\("speech-emotion-mtl", model="path/to/tiny-run", trust_remote_code=True\)
print\(listener\("clip\.wav"\)\["text"\]\)
```

All at once \(emotion, gender, speaker, asr\):

```python
from transformers import pipeline

listener = pipeline\("speech-emotion-mtl", model="path/to/tiny-run", trust_remote_code=True\)
print\(listener\("clip\.wav"\)\)
```

`trust_remote_code=True` runs the Python files of this repository\. Read them, and pin the commit that you read, so that a later one can't run unseen: `revision="<commit>", code_revision="<commit>"`\.

## Samples

The hosted inference of the Hub does not run custom code\. The scores beside the samples on this page were computed by this model\.

\| sample \| likeliest emotion \| score \|
\| --- \| --- \| --- \|
\| \[16\.wav\]\(widget/16\.wav\) \| (anger|sadness) \| \d+\.\d{3} \|
\| \[17\.wav\]\(widget/17\.wav\) \| (anger|sadness) \| \d+\.\d{3} \|

## Results on the test set

8 clips of 4 known speakers, none of whom trains\.

\| task \| metric \| value \| better \|
\| --- \| --- \| --- \| --- \|
\| emotion \| macro-F1 \| \d+\.\d{3} \| higher \|
\| emotion \| unweighted average recall \| \d+\.\d{3} \| higher \|
\| emotion \| accuracy \| \d+\.\d{3} \| higher \|
\| gender \| unweighted average recall \| \d+\.\d{3} \| higher \|
\| gender \| accuracy \| \d+\.\d{3} \| higher \|
\| speaker \| equal error rate \| \d+\.\d{3} \| lower \|
\| speaker \| minimum detection cost \(target prior \.05\) \| \d+\.\d{3} \| lower \|
\| asr \| word error rate \| \d+\.\d{3} \| lower \|
\| asr \| character error rate \| \d+\.\d{3} \| lower \|

Expected calibration error of the emotion probabilities \(15 bins\): \d\.\d{3} at the model's temperature \d+\.\d{3}, \d\.\d{3} uncalibrated\.

\| emotion \| F1 \| clips \|
\| --- \| --- \| --- \|
\| anger \| \d+\.\d{3} \| 4 \|
\| sadness \| \d+\.\d{3} \| 4 \|

\| gender \| emotion UAR \| clips \|
\| --- \| --- \| --- \|
\| female \| \d+\.\d{3} \| 4 \|
\| male \| \d+\.\d{3} \| 4 \|

\| corpus \| emotion UAR \| clips \|
\| --- \| --- \| --- \|
\| corpus\\_a \| \d+\.\d{3} \| 4 \|
\| test \| \d+\.\d{3} \| 4 \|

## Results on the validation set

8 clips of 2 known speakers, none of whom trains\. These clips chose the checkpoint\.

\| task \| metric \| value \| better \|
\| --- \| --- \| --- \| --- \|
\| emotion \| macro-F1 \| \d+\.\d{3} \| higher \|
\| emotion \| unweighted average recall \| \d+\.\d{3} \| higher \|
\| emotion \| accuracy \| \d+\.\d{3} \| higher \|
\| gender \| unweighted average recall \| \d+\.\d{3} \| higher \|
\| gender \| accuracy \| \d+\.\d{3} \| higher \|
\| speaker \| equal error rate \| \d+\.\d{3} \| lower \|
\| speaker \| minimum detection cost \(target prior \.05\) \| \d+\.\d{3} \| lower \|
\| asr \| word error rate \| \d+\.\d{3} \| lower \|
\| asr \| character error rate \| \d+\.\d{3} \| lower \|

Expected calibration error of the emotion probabilities \(15 bins\): \d\.\d{3} at the model's temperature \d+\.\d{3}, \d\.\d{3} uncalibrated\.

\| emotion \| F1 \| clips \|
\| --- \| --- \| --- \|
\| anger \| \d+\.\d{3} \| 4 \|
\| sadness \| \d+\.\d{3} \| 4 \|

\| gender \| emotion UAR \| clips \|
\| --- \| --- \| --- \|
\| female \| \d+\.\d{3} \| 4 \|
\| male \| \d+\.\d{3} \| 4 \|

## Training

The columns of the tasks count the clips that have a label for it\. Training clips per emotion: anger 4, sadness 4\.

\| set \| corpora \| clips \| hours \| known speakers \| emotion \| gender \| speaker \| asr \|
\| --- \| --- \| --- \| --- \| --- \| --- \| --- \| --- \| --- \|
\| train \| train \| 8 \| 0\.00 \| 2 \| 8 \| 8 \| 8 \| 8 \|
\| validation \| validation \| 8 \| 0\.00 \| 2 \| 8 \| 8 \| 8 \| 8 \|
\| test \| Corpus A, test \| 8 \| 0\.00 \| 4 \| 8 \| 8 \| 8 \| 8 \|

\| hyper-parameter \| value \|
\| --- \| --- \|
\| `learning_rate` \| 0\.001 \|
\| `per_device_train_batch_size` \| 32 \|
\| `gradient_accumulation_steps` \| 1 \|
\| `num_train_epochs` \| 1\.0 \|
\| `lr_scheduler_type` \| cosine \|
\| `warmup_steps` \| 0\.1 \|
\| `optim` \| adamw\\_torch\\_fused \|
\| `weight_decay` \| 0\.01 \|
\| `max_grad_norm` \| 1\.0 \|
\| `seed` \| 42 \|
\| `ema_decay` \| 0\.0 \|
\| `swfc_memory_size` \| 0 \|
\| `speaker_margin_warmup_steps` \| 0\.1 \|
\| `load_best_model_at_end` \| True \|
\| `metric_for_best_model` \| emotion\\_macro\\_f1 \|
\| `num_processes` \| 1 \|
\| `max_seconds` \| 20\.0 \|

Training took \d:\d\d:\d\d \(hours, minutes, seconds\)\.

## Loss

\| task \| weight \|
\| --- \| --- \|
\| emotion \| 1 \|
\| gender \| 0\.1 \|
\| speaker \| 0\.1 \|
\| asr \| 0\.1 \|

The loss is the sum over the tasks of weight times loss\. Emotion: cross-entropy \(label smoothing 0, focus 0, exponent of the class weights 0\) \+ 0\.3 times SWFC\. SWFC: temperature 0\.1, focus 2, exponent of the class weights 0\.5, normalised by `mean`\. Gender: cross-entropy, exponent of the class weights 1\. Speaker: angular margin softmax, scale 30, margin 0\.2\. ASR: CTC over characters\.

## Limits and risks

- \*\*Acted speech\.\*\* Most public emotion corpora are acted\. A model of acted speech recognises how actors render an emotion; on spontaneous speech it is worse than the results above\.
- \*\*Languages\.\*\* The training data is in: de, en\. How emotions sound differs between languages and cultures: elsewhere expect worse, and measure\.
- \*\*Emotion inferred from a voice is uncertain\.\*\* A score says what the voice sounds like to this model, not what a person feels\. Make no decision about a person on it alone\.
- \*\*Law\.\*\* The EU AI Act \(Regulation \(EU\) 2024/1689\) bans systems that infer emotions of people at work and in education, except for medical or safety reasons \(Article 5\(1\)\(f\)\); other emotion recognition counts as high-risk \(Annex III\), and the people concerned must be told \(Article 50\(3\)\)\. Other laws may ask for more\.
- \*\*Gender\*\* is what annotators or speakers of the training data named, in the classes above; it says nothing about a person's identity\.
- \*\*Speaker embeddings are biometric data\*\* where they can identify a person \(in the EU: Article 9 GDPR\)\. Compute and keep them only with a legal basis, such as explicit consent\.

## Licence

The model's licence is `cc-by-nc-4\.0`, chosen by whoever published it\. The licences of the training data and of the base model bind too: non-commercial training data makes a non-commercial model\. The Python files of this repository are Apache-2\.0\.

## Environment

\|  \|  \|
\| --- \| --- \|
\| modeling_ser_mtl \| .+ \|
\| python \| .+ \|
\| torch \| .+ \|
\| transformers \| .+ \|
\| accelerate \| .+ \|
\| datasets \| .+ \|
\| huggingface_hub \| .+ \|
\| numpy \| .+ \|
\| soundfile \| .+ \|
\| soxr \| .+ \|
\| system \| .+ \|
\| device \| .+ \|

## How to reproduce

The command of the training run; file names stand for paths on the machine where it ran\.

```bash
python run_ser_mtl\.py \\
    --config_name \d+\.json \\
    --output_dir tiny-run \\
    --num_train_epochs 1 \\
    --train_file train\.csv \\
    --validation_file validation\.csv \\
    --test_file test\.csv \\
    --widget_samples 16\.wav 17\.wav \\
    --license cc-by-nc-4\.0 \\
    --language de en \\
    --dataset_names org/speech \\
    --do_train \\
    --do_eval \\
    --do_predict \\
    --use_cpu True \\
    --disable_tqdm True
```

## Citation

The method follows, apart from this model's own choices, \[arXiv 2508\.17878\]\(https://arxiv\.org/abs/2508\.17878\):

```bibtex
@misc\{wang2025enhancing,
  title = \{Enhancing Speech Emotion Recognition with Multi-Task Learning and Dynamic Feature Fusion\},
  author = \{Wang, Honghong and Deng, Jing and Meng, Fanqin and Zheng, Rong\},
  year = \{2025\},
  eprint = \{2508\.17878\},
  archivePrefix = \{arXiv\},
  url = \{https://arxiv\.org/abs/2508\.17878\}
\}
```
