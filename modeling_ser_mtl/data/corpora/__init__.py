"""One small file per known corpus: a folder on disk becomes manifest rows."""

from .crema_d import CREMA_D
from .definition import Corpus
from .emodb import EMODB
from .esd import ESD
from .folder import FOLDER
from .iemocap import IEMOCAP
from .librispeech import LIBRISPEECH
from .meld import MELD
from .msp_podcast import MSP_PODCAST
from .nemo import NEMO
from .ravdess import RAVDESS
from .savee import SAVEE
from .tess import TESS
from .urdu import URDU

CORPORA: dict[str, Corpus] = {
    corpus.name: corpus
    for corpus in (
        *(MSP_PODCAST, RAVDESS, EMODB, NEMO, LIBRISPEECH, *IEMOCAP),
        *(CREMA_D, MELD, SAVEE, TESS, ESD, URDU, FOLDER),
    )
}
