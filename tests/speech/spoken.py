"""Have espeak-ng (Debian's package of that name) speak known sentences, in several voices and at several speeds.

    python -m tests.speech.spoken FOLDER

makes FOLDER/heard and FOLDER/held, which have no sentence in common: wav files of 16 kHz, what is said in each
(.txt), and manifest.jsonl. The same on every machine with the same espeak-ng.
"""

import json
import subprocess
import sys
import wave
from pathlib import Path

import numpy as np

RATE = 16_000
VOICES = ("en-us", "en-gb", "en-us+m3", "en-gb-x-rp")
WORDS_A_MINUTE = (130, 145, 120)
# Every third is held back: of it nothing is measured beforehand.
HELD_ONE_IN = 3
TEXTS = (
    "The morning train leaves the station at half past seven and reaches the coast before noon. "
    "Most people sleep until the sea comes into view.",
    "She opened the old wooden box and found a letter from her grandmother. It told the story of a long journey.",
    "Rain is expected in the north today, while the south stays dry and warm. "
    "Tomorrow the wind will turn and bring cooler air from the sea.",
    "Please put the clean plates on the table and call the children for dinner. The soup is already hot.",
    "The museum has a new room about the history of paper. Visitors can make a sheet with their own hands.",
    "Our neighbour keeps bees at the end of the garden. In a good summer he gives every house a jar of honey.",
    "The doctor told him to walk for an hour every day and to drink less coffee. After a month he felt much better.",
    "A small company in the valley builds wooden boats. Each boat takes about a year, and no two are alike.",
    "The library opens at nine and closes at six, except on Sundays. You can borrow ten books at a time.",
    "When the lights went out, nobody spoke for a moment. Then somebody laughed and went to look for a candle.",
    "The river was high after the storm, and the bridge stayed closed for three days. "
    "Farmers had to drive around the mountain.",
    "He learned to play the piano when he was sixty years old. Now he plays for his friends every Friday night.",
    "The teacher asked the class to write about the best day of the summer. Most of them wrote about the lake.",
    "There is a market in the old town every Saturday. People sell bread, cheese, flowers and vegetables.",
    "The ship carried coffee and sugar across the ocean. It took six weeks, and many of the sailors were ill.",
    "We planted forty apple trees behind the house last spring. Only two of them did not survive the winter.",
    "The engineer checked the numbers twice before she signed the report. "
    "A small mistake could close the whole factory.",
    "My brother lives in a village with one shop and no school. He says that he has never been so happy.",
    "The film begins with a long silent scene in the desert. Some people in the cinema began to cough.",
    "If you take the second road on the left, you will see a white church. The hotel is right behind it.",
    "The council wants to build a new park where the old station stood. Many people have already sent their ideas.",
    "Birds that spend the winter in Africa come back in April. They find the same nest that they left in autumn.",
    "The cook washed the rice, cut the onions and put everything into a large pot. "
    "An hour later the house smelled wonderful.",
    "They sold the car and bought two bicycles. "
    "Since then they have seen more of the country than in ten years before.",
    "The light of that star has travelled for thousands of years before it reaches us. "
    "Perhaps the star is no longer there.",
    "In the evening the fishermen mend their nets on the beach. The children listen to their stories.",
    "The book was returned to the library forty years late. The woman who brought it offered to pay for the time.",
    "A good map shows not only where the roads are, but also where the water is. That matters in a dry country.",
    "The clock in the tower has been wrong for as long as anyone can remember. Nobody in the town wants to repair it.",
    "She speaks four languages, but she counts only in the first one. "
    "Numbers seem to live in another part of the mind.",
    "The new bridge is twice as long as the old one. It will be open for traffic at the beginning of next year.",
    "Every winter the lake freezes, and the whole village goes out to skate. Last year the ice was too thin.",
    "The farmer sold his cows and now grows strawberries. In June people come from the city to pick their own.",
    "An empty bottle was found on the shore with a message inside. "
    "It had been written by a boy on the other side of the sea.",
    "The bakery on the corner starts work at three in the morning. By five the first customers wait at the door.",
    "He forgot his umbrella on the bus and had to run home in the rain. "
    "His sister was waiting with dry clothes and hot tea.",
    "The mountain looks close, but it takes a whole day to walk there. Take enough water and start before sunrise.",
    "Scientists measured the sound of the forest for a year. They could hear when the frogs returned to the ponds.",
    "The old theatre was almost lost in a fire. The town collected money for ten years to build it up again.",
    "Nobody knew who had left the flowers on the steps. They came every spring, always on the same day.",
    "The price of bread rose by a third within a year. Some families began to bake at home once more.",
    "Our flight was late, so we missed the last train and slept in the waiting room. It was not as bad as it sounds.",
    "The painter used only blue and white for a whole year. Later he said that it was the happiest time of his life.",
    "A dog followed the children all the way to school. It waited outside until the lessons were over.",
    "The letter arrived on a Monday, three weeks after it was sent. By then the question had already been answered.",
    "They crossed the desert at night, when the air was cool. By day they rested in the shade of their tents.",
    "The garden behind the hospital is open to everyone. Patients say that they sleep better after a walk there.",
    "It is easier to begin a new habit than to keep it. Write down every evening what you did, and do not skip a day.",
)


def spoken(text: str, voice: str, words_a_minute: int) -> np.ndarray:
    """Return a text as espeak-ng speaks it, at RATE, between -1 and 1."""
    command = ["espeak-ng", "--stdout", "-v", voice, "-s", str(words_a_minute), text]
    sound = subprocess.run(command, check=True, capture_output=True).stdout
    # A header of 44 bytes, whose lengths are unknown to a pipe; 22,050 samples a second.
    rate = int.from_bytes(sound[24:28], "little")
    samples = np.frombuffer(sound[44:], "<i2").astype(np.float64) / 32768
    return resampled(samples, rate)


def resampled(samples: np.ndarray, rate: int) -> np.ndarray:
    """Return samples at RATE: what the new rate cannot hold is cut off in the spectrum."""
    count = len(samples) * RATE // rate
    spectrum = np.fft.rfft(samples)[: count // 2 + 1]
    return np.fft.irfft(spectrum, count) * (count / len(samples))


def write(path: Path, samples: np.ndarray) -> None:
    """Write a wav file of 16 bits."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())


def make(folder: Path) -> None:
    """Speak all texts."""
    lines: dict[str, list[str]] = {"heard": [], "held": []}
    for number, text in enumerate(TEXTS):
        part = "held" if number % HELD_ONE_IN == HELD_ONE_IN - 1 else "heard"
        place = folder / part
        place.mkdir(parents=True, exist_ok=True)
        voice, speed = VOICES[number // HELD_ONE_IN % len(VOICES)], WORDS_A_MINUTE[number // 2 % len(WORDS_A_MINUTE)]
        name = f"{number:02d}"
        write(place / f"{name}.wav", spoken(text, voice, speed))
        (place / f"{name}.txt").write_text(f"{text}\n")
        about = {"audio": f"{name}.wav", "text": text, "category": voice.partition("+")[0]}
        lines[part].append(json.dumps(about))
    for part, found in lines.items():
        (folder / part / "manifest.jsonl").write_text("\n".join(found) + "\n")


if __name__ == "__main__":
    make(Path(sys.argv[1]))
